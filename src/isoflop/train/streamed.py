"""A model that learns with its weights, moments and gradients in a store: the optimizer works where they are.

On disk every step is a checkpoint. When its gradients are there and their norm is known, the journal is written: from
then on the step counts. What it asks of every shard, its new state, is made in the background, from the embeddings
upwards, while the next step's forward pass follows. Whoever finds a journal after a crash makes what is missing.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from isoflop.durable import sha256_of_file
from isoflop.errors import ChangedError
from isoflop.model import (
    GPT,
    Kernels,
    Lanes,
    Shard,
    Weights,
    initialise,
    make_model,
    mapped,
    pieces_of,
    shards_of,
)
from isoflop.recipe import Parametrisation, Shape
from isoflop.recipe.footprint import CARRIERS, CLERKS, DEVICE_CLERKS, mapped_from
from isoflop.recipe.streaming import Cut
from isoflop.streaming.device import DeviceExecutor
from isoflop.streaming.disk import DiskStore
from isoflop.streaming.exchange import Exchange, Surroundings
from isoflop.streaming.executor import Executor
from isoflop.streaming.host import HostStore
from isoflop.streaming.kept import Kept, KeptOnDisk
from isoflop.streaming.store import Counter, State, Window, Work, windows_of
from isoflop.systems.device import begin_thread
from isoflop.systems.group import Systems, owner, send_out
from isoflop.systems.sums import Adder
from isoflop.train.allocator import give_back_freed_memory, map_large_buffers
from isoflop.train.intact import changed
from isoflop.train.journal import Journal
from isoflop.train.learner import CPU, STATE, Learns, Source, totals, write_state
from isoflop.train.optimizer import AdamW, Chunk, Update, chunks_of
from isoflop.train.reach import Reach

# Memories for what a layer keeps: one for each lane that has a microbatch, and so many on their way.
ON_THEIR_WAY = 1


class StreamedLearner(Learns):
    """One model whose state is in `store`. Call `create`, `restore` or `recover` first.

    `journal` is where a store on disk keeps what it must know of the step it is at. It computes on `lanes`, or on
    `device` where one is given; the optimizer's work is the host's in either case, by `kernels`.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        precision: Literal["bf16", "fp32"],
        lanes: Lanes,
        kernels: Kernels | None,
        optimizer: AdamW,
        parametrisation: Parametrisation,
        systems: Systems,
        reproducible: bool,
        cut: Cut,
        folder: Path | None,
        journal: Journal | None,
        device: torch.device | None = None,
    ) -> None:
        map_large_buffers(mapped_from(shape, precision, cut.sequences))
        self._device = device
        self._shape, self._cut, self._folder, self._journal = shape, cut, folder, journal
        self._lanes, self._kernels, self._systems, self._optimizer = lanes, kernels, systems, optimizer
        self.model = make_model(shape, precision, kernels if device is None else None, parametrisation, cut.recompute)
        self._parametrisation = parametrisation
        self._sums_dtype = torch.int64 if reproducible else torch.float32
        self._adder = Adder(self._sums_dtype, kernels)
        self._shards = shards_of(shape)
        self._own = [shard for shard in self._shards if owner(shard.index, systems) == systems.rank]
        self._chunks = {shard.index: _by_window(shard) for shard in self._own}
        self.lasting, self.generations = folder is not None, 2 if folder is None else 1
        self.link_bytes, self._reach = 0, Reach(shape)
        at, clerks = (CPU, CLERKS) if device is None else (device, DEVICE_CLERKS)
        self._carriers, self._clerks = (
            ThreadPoolExecutor(count, name, begin_thread, (at,))
            for count, name in ((CARRIERS, "carrier"), (clerks, "clerk"))
        )
        self._executor: Exchange | None = None
        # By shard: what makes its weights, and what has them last.
        self._windows_updated: dict[int, list[Future[None]]] = {}
        self._committed: dict[int, Future[None]] = {}
        self._pending: tuple[float, float, int] | None = None
        # Bytes between device and store; with a GPU those over its link, wherever the store has them from.
        self._moved = Counter()
        held = (pieces_of(shape), self._own, self.model.dtype, self._sums_dtype)
        counter = self._moved if device is None else Counter()
        self._store: HostStore | DiskStore
        if folder is None:
            self._store = HostStore(*held, counter, device)
        else:
            self._store = DiskStore(folder, *held, counter, cut.groups > 1, device, cut.embeddings_stay)

    def _begin(self) -> Exchange:
        """The executor; its memory is taken when the first step begins."""
        if self._executor is not None:
            return self._executor
        given = Surroundings(
            kernels=self._kernels,
            systems=self._systems,
            sums_dtype=self._sums_dtype,
            most=self._cut.most,
            microbatch_tokens=self._cut.sequences * self._shape.context_length,
            squares=self._squares,
            carriers=self._carriers,
            clerks=self._clerks,
            updated=self._updated,
            settled=self._settled,
            moved=self._moved,
            offload=self._cut.offload,
            staying=self._cut.staying,
            embeddings_stay=self._cut.embeddings_stay,
        )
        if self._device is None:
            self._executor = Executor(self.model, self._store, self._kept(), self._lanes, given)
            return self._executor
        assert isinstance(self.model, GPT)
        if self._device.type == "cuda":
            self.model.compile()
        self._executor = DeviceExecutor(self.model, self._store, self._device, given)
        return self._executor

    def _kept(self) -> Kept:
        n_bytes = self.model.kept_bytes(self._cut.sequences, self._shape.context_length)
        if self._folder is None:
            return Kept(n_bytes)
        path = self._folder / f"kept-{self._systems.rank}"
        at_once = min(self._lanes.count, self._cut.most) + ON_THEIR_WAY
        count = (self._shape.n_layers, self._cut.most, at_once)
        return KeptOnDisk(path, n_bytes, *count, self._carriers, self._moved)

    def create(self, seed: int) -> None:
        """The initial weights."""
        for piece in pieces_of(self._shape):
            flat = initialise(self._shape, seed, self._parametrisation, piece).flat
            for shard in self._own:
                if shard.piece == piece:
                    self._store.create(shard, flat[shard.start - piece.start : shard.stop - piece.start])
            del flat
        # The embeddings were drawn whole, which takes more than training does.
        give_back_freed_memory()

    def restore(self, source: Source) -> None:
        """As `Learns` says. On disk the files of a streamed run are taken as they are, by a second name."""
        for shard in self._own:
            if isinstance(self._store, DiskStore):
                self._store.adopt(shard, source.path(shard), source.updates)
            else:
                state = source.read(shard)
                self._store.restore(shard, [state[name] for name in STATE])

    def recover(self, norm: float, lr: float, step: int) -> None:
        """Takes over what is in the store, where the update of that step may have come to some shards only.

        Raises:
            DamagedError: a file is not what was written.
        """
        assert isinstance(self._store, DiskStore)
        for shard in self._own:
            self._store.find(shard, step)
        behind = [shard for shard in self._own if self._store.step(shard) < step]
        update = self._optimizer.at(step, norm, lr)
        self._start_update(behind, step, update)
        self._settle()
        list(self._clerks.map(self._store.verify, self._own))

    def gradients(self, microbatches: Sequence[Callable[[], Tensor]], step_tokens: int) -> float:
        """As `Learns` says."""
        self._systems.doing("gradients")
        executor = self._begin()
        give_back_freed_memory()  # holes of one step are none of the next
        before, self._reach = self._moved.bytes, Reach(self._shape)
        nats = executor.gradients(microbatches, step_tokens)
        self.link_bytes = self._moved.bytes - before
        self._squared = executor.squares
        loss, self._bounds = totals(self._systems, nats, executor.bounds)
        return loss / step_tokens

    def norm(self) -> float:
        """As `Learns` says."""
        if not self._adder.within(self._bounds):
            return math.nan
        return math.sqrt(totals(self._systems, self._squared)[0])

    def unreached(self) -> tuple[str, ...]:
        """As `Learns` says."""
        return self._reach.missed(self._systems)

    def update(self, norm: float, lr: float, step: int) -> None:
        """As `Learns` says: prepared here, begun with `commit`."""
        with self._named():  # what passes took from memory, before the step counts: from a disk it has checksums
            self._store.vectors.check()
            if self.lasting:
                list(self._clerks.map(self._store.check, self._own))
        self._systems.doing("update")
        list(self._clerks.map(lambda shard: self._store.seal(shard, step), self._own))
        self._systems.gather(np.zeros(0))
        self._pending = norm, lr, step

    def discard(self) -> None:
        """As `Learns` says: nothing, the next step's gradients are written over what is there."""

    def commit(self, position: Mapping[str, Any]) -> None:
        """As `Learns` says: the update begins, and goes on beside what follows."""
        assert self._pending is not None
        norm, lr, step = self._pending
        if self._journal is not None:
            if self._systems.rank == 0:
                self._journal.write(position, norm, lr, step)
            self._systems.gather(np.zeros(0))
        self._start_update(self._own, step, self._optimizer.at(step, norm, lr))

    def check(self) -> None:
        """As `Learns` says. Of what lies on disk every read does it."""
        self._settle()
        with self._named():
            list(self._clerks.map(self._store.check, self._own))

    def write(self, shard: Shard, path: Path) -> bytes:
        """As `Learns` says. On disk the state has its file already, which gets a second name."""
        self._settle()
        if isinstance(self._store, HostStore):
            return write_state(path, dict(zip(STATE, self._store.state(shard), strict=True)))
        os.link(self._store.state_path(shard), path)
        return bytes.fromhex(sha256_of_file(path))

    def complete(self) -> Weights:
        """As `Learns` says, and ends the training: of a store on disk they are a mapped file, which takes no memory."""
        self._settle()
        if isinstance(self._store, HostStore) or self._folder is None:
            flat = torch.empty(self._shape.params)
        else:
            self.close()
            self._store.discard_gradients()
            (self._folder / f"kept-{self._systems.rank}").unlink(missing_ok=True)
            flat = mapped(self._folder, self._shape.params)
        for shard in self._shards:
            for window in windows_of(shard):
                part = flat[window.start : window.stop]
                if shard in self._own:
                    part.copy_(self._store.weights(shard, window))
                send_out(self._systems, [(shard.index, part)])
        return Weights(self._shape, flat)

    def close(self) -> None:
        """As `Learns` says: ends the threads, which finish what they have begun."""
        if self._executor is not None:
            self._executor.close()
        for pool in (self._carriers, self._clerks):
            pool.shutdown(cancel_futures=True)

    def _start_update(self, shards: Sequence[Shard], step: int, update: Update) -> None:
        """Shard after shard, in the background; what nobody waits for comes last."""

        def commit(shard: Shard, windows: Sequence[Future[None]]) -> None:
            for window in windows:
                window.result()
            self._store.commit(shard, step)

        last = []
        for shard in shards:
            work = self._work(shard, update)
            of_shard = [
                self._clerks.submit(self._store.update, shard, window, step, work) for window in windows_of(shard)
            ]
            self._windows_updated[shard.index] = of_shard
            if self._store.at_hand(shard):
                last.append((shard, of_shard))
            else:
                self._committed[shard.index] = self._clerks.submit(commit, shard, of_shard)
        for shard, of_shard in last:
            self._committed[shard.index] = self._clerks.submit(commit, shard, of_shard)

    def _updated(self, shard: Shard) -> None:
        """Waits until image and weights of a shard are those after its update."""
        if not self._store.at_hand(shard):
            self._settled(shard)
        with self._named():
            for window in self._windows_updated.get(shard.index, ()):
                window.result()

    def _settled(self, shard: Shard) -> None:
        """Waits until the update of a shard is done: its gradient is needed no more."""
        if shard.index in self._committed:
            with self._named():
                self._committed[shard.index].result()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A fault of memory is told with the system and its step."""
        try:
            yield
        except ChangedError as error:
            raise changed(error.what, self._systems, self._systems.rank) from error

    def _settle(self) -> None:
        """Waits until all updates are done."""
        for shard in self._own:
            self._settled(shard)

    def _squares(self, shard: Shard, window: Window, sums: Tensor) -> Iterable[float]:
        self._reach.see(window.start, sums[: window.stop - window.start])
        for chunk in self._chunks[shard.index][window.start]:
            part = sums[chunk.start - window.start : chunk.stop - window.start]
            yield self._optimizer.squares(part, self._adder.unit, self._kernels)

    def _work(self, shard: Shard, update: Update) -> Work:
        def work(window: Window, state: State) -> None:
            for chunk in self._chunks[shard.index][window.start]:
                part = slice(chunk.start - window.start, chunk.stop - window.start)
                image = state.image[part]
                cast = None if image.dtype == torch.float32 else image
                parts = (state.weights[part], state.first_moment[part], state.second_moment[part], cast)
                # The unit is in the gradient already.
                self._optimizer.update(chunk, update, state.gradient[part], 1.0, *parts, self._kernels)
                if cast is None:
                    image.copy_(state.weights[part])

        return work


def _by_window(shard: Shard) -> dict[int, list[Chunk]]:
    """The optimizer's chunks of each window, by where the window begins."""
    found: dict[int, list[Chunk]] = {window.start: [] for window in windows_of(shard)}
    starts = sorted(found)
    for chunk in chunks_of(shard):
        found[max(start for start in starts if start <= chunk.start)].append(chunk)
    return found
