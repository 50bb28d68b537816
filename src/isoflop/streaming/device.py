"""Forward and backward passes on a GPU that holds a few pieces at a time: all others stay at the store.

Copies have two streams of their own beside the one that computes: images arrive while a piece before them is at work,
sums of gradients leave while the next one is. Events order the three; the host waits only for what it reads itself. A
layer leaves its input in the precision of products, on the device or in host memory, and is computed once more in the
backward pass.

On a CPU as the device, streams and events are those of `torch.cpu`, which do nothing: so tests run all of this without
a GPU. It has never been run on one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoflop.model import GPT, Piece, Shard, Weights
from isoflop.streaming.embedding import Rows
from isoflop.streaming.exchange import WPE, WTE, Both, Exchange, Surroundings, vectors_of
from isoflop.streaming.host import HostStore
from isoflop.streaming.inputs import Inputs, InputsInHost, InputsOnDevice
from isoflop.streaming.pages import BLOCK
from isoflop.streaming.store import Counter, Store, Window, matrix_part
from isoflop.streaming.visits import Microbatch
from isoflop.systems.group import bring_home
from isoflop.systems.sums import MarkedSums, Sums

# Images on the device at once: one at work, and two that arrive. Sums: one at work, and one that leaves.
IMAGES, SUMS = 3, 2


class DeviceExecutor(Exchange):
    """On `device`, one microbatch after the other. A store in host memory is read from where it is."""

    def __init__(self, model: GPT, store: Store, device: torch.device, given: Surroundings) -> None:
        super().__init__(model, store, device, given)
        self._gpt, shape = model, model.shape
        self._at = torch.get_device_module(device)
        self._at.set_device(device)
        self._arriving, self._leaving = self._at.Stream(), self._at.Stream()
        widest, d = max(piece.stop - piece.start for piece in self._pieces), shape.d_model
        self._images = [torch.empty(widest, dtype=model.dtype, device=device) for _ in range(IMAGES)]
        self._vectors = [torch.empty(13 * d, device=device) for _ in range(IMAGES)]
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
        self._staged = self._event()
        self._counter = Counter()
        size = (shape.n_layers, tokens, d, model.dtype, device)
        self._inputs: Inputs = InputsOnDevice(*size)
        if given.offload:
            self._inputs = InputsInHost(*size, self._at, self._record, self._counter)

    @property
    def moved_bytes(self) -> int:
        """Bytes that have passed the link between host and device."""
        return self._counter.bytes

    @torch.no_grad()
    def _group(self, samples: Sequence[Tensor], first: bool, last: bool) -> list[float]:
        ids = [one[:, :-1].contiguous() for one in samples]
        rows = Rows(self._model.shape, torch.cat(ids) if ids else torch.zeros(0, 1, dtype=torch.int64))
        looking_up = self._conductor.submit(self._look_up, rows)
        below, n_layers = self._layers[:-1], len(self._layers)
        arrivals = Arrivals(self._bring, self._record, self._conductor, [*self._layers, self._embedding, *below[::-1]])
        looking_up.result()
        batch = self._batch(samples)
        self._marks.zero_()

        self._embed(batch, rows.tokens)
        for i in range(n_layers):
            self._forward(i, arrivals.take(i), batch)
            if i < n_layers - 1:  # the last one's image serves its backward pass as well
                arrivals.done(i)
        nats = self._head(arrivals.take(n_layers), batch, first, last)
        arrivals.done(n_layers)
        for i in reversed(range(n_layers)):
            number = i if i == n_layers - 1 else 2 * n_layers - 1 - i
            self._backward(i, arrivals.take(number), batch, first, last)
            arrivals.done(number)

        self._stream[: rows.tokens].copy_(self._x[: rows.tokens], non_blocking=True)
        self._counter.add(self._x[: rows.tokens])
        self._record().synchronize()
        for slot in range(len(self._drains)):
            self._finish_drains(slot)
        with self._lock:
            self.bounds += self._marks.cpu().numpy()
        self._embed_backward(rows, last)
        return [float(one) for one in nats]

    def _batch(self, samples: Sequence[Tensor]) -> list[Microbatch]:
        batch, first = [], 0
        for i, one in enumerate(samples):
            on_device = one.to(self._device)
            ids, targets = on_device[:, :-1].contiguous(), on_device[:, 1:].reshape(-1)
            batch.append(Microbatch(i, ids, targets, self._x[first : first + len(targets)]))
            first += len(targets)
        return batch

    # What is computed, from the bottom up.

    def _embed(self, batch: Sequence[Microbatch], tokens: int) -> None:
        for own, host in ((self._x[:tokens], self._stream[:tokens]), (self._wpe, self._positions)):
            own.copy_(host, non_blocking=True)
            self._counter.add(own)
        for one in batch:
            rows = torch.arange(one.ids.numel(), device=self._device).view(one.ids.shape)
            one.x.copy_(self._gpt.embed({WTE: one.x, WPE: self._wpe}, rows))

    def _forward(self, i: int, got: "Arrived", batch: Sequence[Microbatch]) -> None:
        w, image = self._tensors(i, got.image, got.vectors)
        for one, kept in zip(batch, _parts(self._inputs.leave(i), batch), strict=True):
            kept.copy_(one.x)
            one.x.copy_(self._gpt.layer(w, image, one.x, len(one.ids))[0])
        self._inputs.left(i, sum(len(one.x) for one in batch))

    def _head(self, got: "Arrived", batch: Sequence[Microbatch], first: bool, last: bool) -> Tensor:
        """The nats of each microbatch, (microbatches,)."""
        sums = Both(self._sums_of(self._embedding), self._sums_of(self._final))
        final = Weights(self._model.shape, self._final_sums, self._final)
        vectors, nats = vectors_of(final, got.vectors), torch.zeros(len(batch), device=self._device)
        for i, one in enumerate(batch):
            nats[i], dx = self._gpt.head(vectors, got.image, one.x, one.targets, sums)
            one.x.copy_(dx)
        # What the rows of the embeddings get comes at the very end.
        self._drain(sums.one, self._embedding, earlier=not first, last=False)
        self._drain(sums.other, self._final, earlier=not first, last=last)
        return nats

    def _backward(self, i: int, got: "Arrived", batch: Sequence[Microbatch], first: bool, last: bool) -> None:
        w, image = self._tensors(i, got.image, got.vectors)
        sums = self._sums_of(self._layers[i])
        for one, kept in zip(batch, _parts(self._inputs.find(i), batch), strict=True):
            with torch.enable_grad():
                _, graph = self._gpt.layer(w, image, kept.float(), len(one.ids))
            assert graph is not None
            self._gpt.layer_backward(i, w, image, graph, one.x, sums)
        self._inputs.done(i)
        self._drain(sums, self._layers[i], earlier=not first, last=last)

    # What arrives: on the conductor's thread.

    def _bring(self, piece: Piece, slot: int, free: Any) -> "Arrived":
        """Its image and vectors, in a slot whose last ones are done with after the event `free`."""
        image = Weights(self._model.shape, self._images[slot][: piece.stop - piece.start], piece)
        # The head needs those of the last LayerNorm; the embeddings have none.
        owner = self._final if piece == self._embedding else piece
        vectors = self._vectors[slot][: owner.stop - owner.vectors]
        matrices = image.flat[: piece.vectors - piece.start]
        with self._at.stream(self._arriving):
            if free is not None:
                self._arriving.wait_event(free)
            if self._direct:
                for shard in (*self._shards[piece.name], *self._shards[owner.name]):
                    self._updated(shard)
                for shard in self._shards[piece.name]:
                    self._store.image(shard, image.flat[shard.start - piece.start :][: matrix_part(shard)])
            else:
                self._staged.synchronize()
                self._fetch(piece, self._staging)
                if owner != piece:
                    self._fetch(owner, self._staging)  # vectors alone
                matrices.copy_(self._staging[: len(matrices)], non_blocking=True)
                self._staged.record(self._arriving)
            vectors.copy_(self._store.vectors.piece(owner))
            self._counter.add(matrices)
            self._counter.add(vectors)
            return Arrived(image, vectors, self._record())

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
            self._counter.add(own)
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

    def _event(self) -> Any:
        """An event for which a thread that waits for it sleeps."""
        return self._at.Event(blocking=True) if self._device.type == "cuda" else self._at.Event()

    def _record(self) -> Any:
        """An event after all that the calling thread has asked of its stream."""
        event = self._event()
        event.record()
        return event


def _parts(inputs: Tensor, batch: Sequence[Microbatch]) -> list[Tensor]:
    """A layer's inputs, (n, d) of each microbatch."""
    sizes = [len(one.x) for one in batch]
    return list(torch.split(inputs[: sum(sizes)], sizes))


@dataclass(frozen=True)
class Arrived:
    """A piece on the device once the event `there` has come; `vectors` one after the other, fp32."""

    image: Weights
    vectors: Tensor
    there: Any


class Arrivals:
    """Pieces in the `order` of a pass, each brought as soon as what was in its slot is done with."""

    def __init__(
        self,
        bring: Callable[[Piece, int, Any], Arrived],
        record: Callable[[], Any],
        conductor: ThreadPoolExecutor,
        order: Sequence[Piece],
    ) -> None:
        self._bring, self._record, self._conductor, self._order = bring, record, conductor, order
        self._coming: list[Future[Arrived]] = []
        self._done: dict[int, Any] = {}
        self._go_on()

    def take(self, number: int) -> Arrived:
        """That of `order[number]`; what the calling thread asks of the device from now on comes after its arrival."""
        found = self._coming[number].result()
        found.there.wait()
        return found

    def done(self, number: int) -> None:
        """All that it is needed for has been asked of the device."""
        self._done[number] = self._record()
        self._go_on()

    def _go_on(self) -> None:
        while (number := len(self._coming)) < len(self._order):
            before = number - IMAGES
            if before >= 0 and before not in self._done:
                return
            free = self._done.get(before)
            self._coming.append(self._conductor.submit(self._bring, self._order[number], number % IMAGES, free))


class DeviceSums(MarkedSums):
    """Sums of the piece in a `slot`."""

    def __init__(self, into: Weights, slot: int, marks: Tensor, places: dict[str, int], step_tokens: int) -> None:
        super().__init__(into, marks, places)
        self.slot = slot
        self.begin(step_tokens)
