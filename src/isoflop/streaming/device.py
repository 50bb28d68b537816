"""Forward and backward passes on a GPU that holds a few pieces at a time: all others stay at the store.

Copies have streams of their own beside the one that computes: images arrive while a piece before them is at work, sums
of gradients leave while the next one is. Events order them; the host waits only for what it reads itself. A layer
leaves its input in the precision of products, and is computed once more in the backward pass.

It has never been run on a GPU. Tests run it under a stand-in for `torch.cuda` on the processor, which knows what comes
after what and refuses whatever is read or written without having been waited for.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoflop.model import GPT, Piece, Shard, Weights
from isoflop.recipe.footprint import IMAGES, INPUT_SLOTS, SUMS
from isoflop.streaming.embedding import Rows
from isoflop.streaming.exchange import WPE, WTE, Both, Exchange, Surroundings, vectors_of
from isoflop.streaming.host import HostStore
from isoflop.streaming.inputs import Inputs
from isoflop.streaming.pages import BLOCK
from isoflop.streaming.store import Store, Window, matrix_part
from isoflop.streaming.visits import Microbatch
from isoflop.systems.group import bring_home
from isoflop.systems.sums import MarkedSums, Sums


@dataclass(eq=False)
class Place:
    """Memory on the device where pieces lie, one after the other: the image, and fp32 vectors.

    `free` is the event after all that the last piece was needed for; at first, after what the memory was before.
    """

    image: Tensor
    vectors: Tensor
    free: Any
    holds: Piece | None = None


class DeviceExecutor(Exchange):
    """On `device`, one microbatch after the other. A store in host memory is read from where it is.

    The images of the first `given.staying` layers stay on the device until the next update.
    """

    def __init__(self, model: GPT, store: Store, device: torch.device, given: Surroundings) -> None:
        super().__init__(model, store, device, given)
        self._gpt, shape = model, model.shape
        self._at = torch.get_device_module(device)
        self._arriving, self._leaving = self._at.Stream(), self._at.Stream()
        widest, d = max(piece.stop - piece.start for piece in self._pieces), shape.d_model
        self._slots = [self._place(widest) for _ in range(IMAGES)]
        staying = self._layers[: given.staying]
        self._staying = {piece.name: self._place(piece.stop - piece.start) for piece in staying}
        self._route = route_of([*self._layers, self._embedding, *self._layers[::-1]], self._staying, self._slots)
        self._sums = [torch.empty(widest, dtype=given.sums_dtype, device=device) for _ in range(SUMS)]
        self._final_sums = torch.empty(2 * d, dtype=given.sums_dtype, device=device)
        self._sums_taken, self._drains = 0, [list[Future[None]]() for _ in range(SUMS + 1)]
        tokens = given.most * given.microbatch_tokens
        self._x = torch.empty(tokens, d, device=device)  # fp32, as `_stream` on the host
        self._wpe = torch.empty(shape.context_length, d, device=device)
        self._marks = torch.zeros(len(self._places), dtype=torch.float64, device=device)
        self._direct = isinstance(store, HostStore) and self._systems.size == 1
        # Where images come together that are read from a disk, or come from several systems.
        self._staging = self._elements(0 if self._direct else widest + BLOCK, model.dtype)
        self._staged: Any = None
        slots = INPUT_SLOTS if given.offload else shape.n_layers
        how = (model.dtype, device, self._at, self._record, self._moved)
        self._inputs = Inputs(shape.n_layers, slots, (tokens, d), *how)

    @torch.no_grad()
    def _group(self, samples: Sequence[Tensor], first: bool, last: bool) -> list[float]:
        ids = [one[:, :-1].contiguous() for one in samples]
        rows = Rows(self._model.shape, torch.cat(ids) if ids else torch.zeros(0, 1, dtype=torch.int64))
        self._look_up(rows)
        batch = self._batch(samples, self._x)
        self._marks.zero_()

        visits, n_layers = self._visits(first), len(self._layers)
        self._embed(batch, rows.tokens)
        for i in range(n_layers):
            self._forward(i, *next(visits), batch)
        nats = self._head(*next(visits), batch, first, last)
        for i in reversed(range(n_layers)):
            self._backward(i, *next(visits), batch, first, last)

        self._stream[: rows.tokens].copy_(self._x[: rows.tokens], non_blocking=True)
        self._moved.add(self._x[: rows.tokens])
        self._record().synchronize()  # sleeps, where `cpu` below would wait busily
        for slot in range(len(self._drains)):
            self._finish_drains(slot)
        with self._lock:
            self.bounds += self._marks.cpu().numpy()
        self._embed_backward(rows, last)
        return nats.tolist()

    # What is computed, from the bottom up.

    def _embed(self, batch: Sequence[Microbatch], tokens: int) -> None:
        for own, host in ((self._x[:tokens], self._stream[:tokens]), (self._wpe, self._positions)):
            own.copy_(host, non_blocking=True)
            self._moved.add(own)
        for one in batch:
            rows = torch.arange(one.ids.numel(), device=self._device).view(one.ids.shape)
            one.x.copy_(self._gpt.embed({WTE: one.x, WPE: self._wpe}, rows))

    def _forward(self, i: int, image: Weights, vectors: Tensor, batch: Sequence[Microbatch]) -> None:
        w, matrices = self._tensors(i, image, vectors)
        for one, kept in zip(batch, _parts(self._inputs.leave(i), batch), strict=True):
            kept.copy_(one.x)
            one.x.copy_(self._gpt.layer(w, matrices, one.x, len(one.ids))[0])
        self._inputs.left(i, sum(len(one.x) for one in batch))

    def _head(self, image: Weights, vectors: Tensor, batch: Sequence[Microbatch], first: bool, last: bool) -> Tensor:
        """The nats of each microbatch, (microbatches,)."""
        sums = Both(self._sums_of(self._embedding), self._sums_of(self._final))
        norm = vectors_of(Weights(self._model.shape, self._final_sums, self._final), vectors)
        nats = torch.zeros(len(batch), device=self._device)
        for i, one in enumerate(batch):
            nats[i], dx = self._gpt.head(norm, image, one.x, one.targets, sums)
            one.x.copy_(dx)
        # What the rows of the embeddings get comes at the very end.
        self._drain(sums.one, self._embedding, earlier=not first, last=False)
        self._drain(sums.other, self._final, earlier=not first, last=last)
        return nats

    def _backward(
        self, i: int, image: Weights, vectors: Tensor, batch: Sequence[Microbatch], first: bool, last: bool
    ) -> None:
        w, matrices = self._tensors(i, image, vectors)
        sums = self._sums_of(self._layers[i])
        for one, kept in zip(batch, _parts(self._inputs.find(i), batch), strict=True):
            with torch.enable_grad():
                _, graph = self._gpt.layer(w, matrices, kept.float(), len(one.ids))
            assert graph is not None
            self._gpt.layer_backward(i, w, matrices, graph, one.x, sums)
        self._inputs.done(i)
        self._drain(sums, self._layers[i], earlier=not first, last=last)

    # What arrives.

    def _visits(self, first: bool) -> Iterator[tuple[Weights, Tensor]]:
        """Image and vectors of one piece after the other, in the order of a pass.

        What the device is asked for from then on comes after their arrival. Whoever wants the next piece has asked for
        all that this one is needed for: then what has its place further on the way may come there.
        """
        for place in (*self._slots, *(self._staying.values() if first else ())):
            place.holds = None
        coming: dict[int, Future[Any]] = {}
        ahead = 0
        for number, (piece, place) in enumerate(self._route):
            while ahead < len(self._route):
                its, there = self._route[ahead]
                if any(one is there and other != its for other, one in self._route[number:ahead]):
                    break
                if there.holds != its:
                    there.holds = its
                    coming[ahead] = self._conductor.submit(self._bring, its, there, there.free)
                ahead += 1
            if number in coming:
                coming[number].result().wait()
            image = place.image[: piece.stop - piece.start]
            yield Weights(self._model.shape, image, piece), place.vectors
            place.free = self._record()

    def _bring(self, piece: Piece, place: Place, free: Any) -> Any:
        """On the conductor's thread: a piece goes to its place after the event `free`. The event after it."""
        matrices = place.image[: piece.vectors - piece.start]
        # The head needs those of the last LayerNorm; the embeddings have none.
        owner = self._final if piece == self._embedding else piece
        vectors = place.vectors[: owner.stop - owner.vectors]
        with self._at.stream(self._arriving):
            self._arriving.wait_event(free)
            if self._direct:
                for shard in (*self._shards[piece.name], *self._shards[owner.name]):
                    self._updated(shard)
                for shard in self._shards[piece.name]:
                    self._store.image(shard, matrices[shard.start - piece.start :][: matrix_part(shard)])
            else:
                if self._staged is not None:
                    self._staged.synchronize()
                for one in dict.fromkeys((piece, owner)):  # of the owner vectors alone
                    self._fetch(one, self._staging)
                matrices.copy_(self._staging[: len(matrices)], non_blocking=True)
            vectors.copy_(self._store.vectors.piece(owner), non_blocking=True)
            self._moved.add(matrices)
            self._moved.add(vectors)
            self._staged = self._record()
            return self._staged

    # What leaves: on the clerks' threads.

    def _sums_of(self, piece: Piece) -> "DeviceSums":
        """Zeros for a piece's sums, where those of a piece before have left."""
        if piece == self._final:
            slot, memory = SUMS, self._final_sums
        else:
            slot = self._sums_taken % SUMS
            memory = self._sums[slot][: piece.stop - piece.start]
            self._sums_taken += 1
        self._finish_drains(slot)
        into = Weights(self._model.shape, memory.zero_(), piece)
        return DeviceSums(into, slot, self._marks, self._places, self._step_tokens)

    def _drain(self, sums: Sums, piece: Piece, earlier: bool, last: bool) -> None:
        """The sums of a piece leave for the store, where `earlier` ones of the step are."""
        assert isinstance(sums, DeviceSums)
        flat, computed = sums.into.flat, self._record()

        def leave(part: tuple[Shard, Window]) -> None:
            shard, window = part
            own = self._buffer("leaving", window, self._sums_dtype)
            with self._at.stream(self._leaving):
                self._leaving.wait_event(computed)
                own.copy_(flat[window.start - piece.start : window.stop - piece.start], non_blocking=True)
                left = self._record()
            left.synchronize()
            self._moved.add(own)
            bring_home(self._systems, [(shard.index, own)])
            if shard in self.own:
                self._leave_window(shard, window, own, earlier, last)

        pool = self._clerks if self._systems.size == 1 else self._conductor
        self._drains[sums.slot] += [pool.submit(leave, part) for part in self._windows(piece)]

    def _finish_drains(self, slot: int) -> None:
        """Waits until what was in the slot has left it."""
        for drain in self._drains[slot]:
            drain.result()
        self._drains[slot] = []

    def close(self) -> None:
        """No more passes."""
        wait([drain for drains in self._drains for drain in drains])
        super().close()

    def _place(self, elements: int) -> Place:
        image = torch.empty(elements, dtype=self._model.dtype, device=self._device)
        return Place(image, torch.empty(13 * self._model.shape.d_model, device=self._device), self._record())

    def _record(self) -> Any:
        """An event after all that the calling thread has asked of its stream; who waits for it on the host sleeps."""
        event = self._at.Event(blocking=True) if self._device.type == "cuda" else self._at.Event()
        event.record()
        return event


def route_of(order: Sequence[Piece], staying: Mapping[str, Place], slots: Sequence[Place]) -> list[tuple[Piece, Place]]:
    """Where each piece goes: to its own place, or to the slot where it still is, or to that used longest ago."""
    route = []
    held: list[tuple[Piece | None, Place]] = [(None, slot) for slot in slots]  # the one used longest ago first
    for piece in order:
        if piece.name in staying:
            route.append((piece, staying[piece.name]))
            continue
        found = next((one for one in held if one[0] == piece), held[0])
        held.remove(found)
        held.append((piece, found[1]))
        route.append((piece, found[1]))
    return route


def _parts(inputs: Tensor, batch: Sequence[Microbatch]) -> list[Tensor]:
    """A layer's inputs, (n, d) of each microbatch."""
    sizes = [len(one.x) for one in batch]
    return list(torch.split(inputs[: sum(sizes)], sizes))


class DeviceSums(MarkedSums):
    """Sums of the piece in a `slot`."""

    def __init__(self, into: Weights, slot: int, marks: Tensor, places: dict[str, int], step_tokens: int) -> None:
        super().__init__(into, marks, places)
        self.slot = slot
        self.begin(step_tokens)
