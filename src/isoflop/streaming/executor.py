"""Forward and backward passes over pieces that visit the device, the whole group of microbatches before the next piece.

One visit is at work while the next one's weights arrive and the last one's gradients leave. Systems send their shards
of a piece to each other as it arrives, and add up the gradients at their owners as it leaves.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isoflop.model import Gradients, Kernels, Lanes, Piece, Shard, Weights, pieces_of, shards_of, tensor_sizes
from isoflop.model.passes import Passes
from isoflop.model.weights import LAYER_TENSORS
from isoflop.streaming.embedding import Rows
from isoflop.streaming.kept import Kept
from isoflop.streaming.pages import BLOCK, pages
from isoflop.streaming.store import Store, Window, largest_window, matrix_part, windows_of
from isoflop.streaming.visits import Microbatch, Pass, Visit
from isoflop.systems.group import Systems, bring_home, owner, send_out
from isoflop.systems.sums import Adder, Sums

WTE, WPE = "transformer.wte.weight", "transformer.wpe.weight"
# The sums of squares of the parts of a window of a shard's gradient.
Squares = Callable[[Shard, Window, Tensor], Iterable[float]]


@dataclass(frozen=True)
class Slots:
    """Where in the buffers of images and sums a piece lies: elements from the beginning.

    Layers alternate between two slots. The last layer's is beside the embeddings' image, which the head needs between
    its two visits; sums have no such third place, as the embeddings' are by far the largest.
    """

    image: dict[str, int]
    sums: dict[str, int]
    image_elements: int
    sums_elements: int


def slots_of(pieces: Sequence[Piece]) -> Slots:
    """A place for every piece."""
    embedding, *layers, final = pieces
    block = BLOCK // 2  # elements of the smallest type
    sizes = {piece.name: -(-(piece.stop - piece.start) // block) * block for piece in pieces}
    wide, layer = sizes[embedding.name], sizes[layers[0].name]
    beside = max(wide, layer)
    image, sums = {embedding.name: 0}, {embedding.name: 0, final.name: max(wide, 2 * layer)}
    for i, piece in enumerate(reversed(layers)):
        image[piece.name] = 0 if i % 2 else beside
        sums[piece.name] = layer if i % 2 else 0
    return Slots(image, sums, beside + layer, max(wide, 2 * layer) + sizes[final.name])


class Executor:
    """Computes the gradients of a model whose weights are in `store`, and leaves them there.

    `most` microbatches make a group; each is (B, T) of ids. `updated` waits until a shard's weights are those after the
    last step. `carriers` read and write, `clerks` also compute beside the lanes.
    """

    def __init__(
        self,
        model: Passes,
        store: Store,
        kept: Kept,
        *,
        lanes: Lanes,
        kernels: Kernels | None,
        systems: Systems,
        sums_dtype: torch.dtype,
        most: int,
        microbatch_tokens: int,
        squares: Squares,
        carriers: ThreadPoolExecutor,
        clerks: ThreadPoolExecutor,
        updated: Callable[[Shard], None],
    ) -> None:
        self._model, self._store, self._kept, self._systems = model, store, kept, systems
        self._lanes, self._kernels, self._squares_of, self._most = lanes, kernels, squares, most
        shape = model.shape
        self._pieces = pieces_of(shape)
        self._embedding, *self._layers, self._final = self._pieces
        self._shards = {piece.name: [s for s in shards_of(shape) if s.piece == piece] for piece in self._pieces}
        self.own = [shard for shard in shards_of(shape) if owner(shard.index, systems) == systems.rank]
        self._slots = slots_of(self._pieces)
        self._images = _elements(self._slots.image_elements, model.dtype)
        self._sums = _elements(self._slots.sums_elements, sums_dtype)
        self._stream = _elements(most * microbatch_tokens * shape.d_model, torch.float32).view(-1, shape.d_model)
        self._positions = _elements(shape.context_length * shape.d_model, torch.float32).view(-1, shape.d_model)
        self._adder = Adder(sums_dtype, kernels)
        self._places = {name: i for i, name in enumerate(tensor_sizes(shape))}
        self.bounds = np.zeros(len(self._places))
        self.squares: list[float] = []
        self._drains: list[tuple[int, int, Future[None]]] = []
        self._threads, self._lock = threading.local(), threading.Lock()
        self._carriers, self._clerks, self._updated = carriers, clerks, updated
        self._conductor = ThreadPoolExecutor(1, "conductor", torch.set_num_threads, (1,))

    @property
    def moved_bytes(self) -> int:
        """Bytes that passes have moved between the device, the store, and what layers keep."""
        return self._store.moved_bytes + self._kept.moved_bytes

    def gradients(self, microbatches: Sequence[Callable[[], Tensor]], step_tokens: int) -> list[float]:
        """The nats of each microbatch's samples, int64 (B, T + 1).

        Their gradient, as a part of that of the mean over `step_tokens`, is in the store when this returns, summed over
        all systems at each shard's owner; `squares` holds the sums of squares of the own shards, `bounds` what each
        tensor's elements can have got from this system.
        """
        self._step_tokens = step_tokens
        self._adder.begin(step_tokens)
        self.bounds[:] = 0.0
        self.squares = []
        counts = self._systems.gather(np.array([float(len(microbatches))]))
        nats: list[float] = []
        groups = -(-int(counts.max()) // self._most)
        for number in range(groups):
            group = [samples() for samples in microbatches[number * self._most : (number + 1) * self._most]]
            nats += self._group(group, first=number == 0, last=number == groups - 1)
        return nats

    def close(self) -> None:
        """No more passes."""
        self._kept.close()
        self._conductor.shutdown(cancel_futures=True)

    @torch.no_grad()
    def _group(self, samples: Sequence[Tensor], first: bool, last: bool) -> list[float]:
        batch = self._batch(samples)
        ids = torch.cat([one.ids for one in batch]) if batch else torch.zeros(0, 1, dtype=torch.int64)
        rows = Rows(self._model.shape, ids)
        forward = [self._forward(i) for i in range(len(self._layers))]
        backward = [self._backward(i, first, last) for i in reversed(range(len(self._layers)))]
        visits = [self._embed(rows), *forward, self._head(first, last), *backward]
        forward[-1].leave = lambda: self._kept.expect(
            [(i, one.number) for i in reversed(range(len(self._layers))) for one in batch]
        )
        run = Pass(visits, batch)
        conducting = self._conductor.submit(run.conduct)
        self._lanes.map(run.run, run.tasks)
        conducting.result()
        run.check()
        self._finish_drains(0, self._slots.sums_elements)
        self._embed_backward(rows, last)
        return [float(one.nats.double().sum()) for one in batch if one.nats is not None]

    def _batch(self, samples: Sequence[Tensor]) -> list[Microbatch]:
        batch, first = [], 0
        for i, one in enumerate(samples):
            ids, targets = one[:, :-1].contiguous(), one[:, 1:].contiguous().view(-1)
            batch.append(Microbatch(i, ids, targets, self._stream[first : first + len(targets)]))
            first += len(targets)
        return batch

    # The visits, from the bottom up.

    def _embed(self, rows: Rows) -> Visit:
        def work(_: None, one: Microbatch) -> None:
            own = torch.arange(one.ids.numel()).view(one.ids.shape)
            one.x.copy_(self._model.embed({WTE: one.x, WPE: self._positions}, own))

        return Visit(lambda: self._look_up(rows), work)

    def _forward(self, i: int) -> Visit:
        piece = self._layers[i]

        def work(tensors: tuple[list[Tensor], list[Tensor]], one: Microbatch) -> None:
            with self._kept.leave(i, one.number) as memory:
                self._model.layer(*tensors, one.x, len(one.ids), memory)

        return Visit(lambda: self._layer_tensors(i), work, uses=[self._image_range(piece)])

    def _head(self, first: bool, last: bool) -> Visit:
        embedding, final = self._embedding, self._final
        sums = _Both(self._sums_of(embedding), self._sums_of(final))

        def prepare() -> tuple[dict[str, Tensor], Weights]:
            self._fetch(embedding)
            self._fetch(final)
            self._finish_drains(*self._sums_range(embedding)[1:])
            return self._vectors(final), Weights(self._model.shape, self._image(embedding), embedding)

        def work(tensors: tuple[dict[str, Tensor], Weights], one: Microbatch) -> None:
            one.nats, dx = self._model.head(*tensors, one.x, one.targets, sums)
            one.x.copy_(dx)

        def leave() -> None:
            # What the rows of the embeddings get comes at the very end.
            self._drain(sums.one, embedding, earlier=not first, last=False)
            self._drain(sums.other, final, earlier=not first, last=last)

        uses = [self._image_range(embedding), self._sums_range(embedding), self._sums_range(final)]
        return Visit(prepare, work, leave, uses)

    def _backward(self, i: int, first: bool, last: bool) -> Visit:
        piece = self._layers[i]
        sums = self._sums_of(piece)

        def prepare() -> tuple[list[Tensor], list[Tensor]]:
            # The last layer's image is still there.
            tensors = self._layer_tensors(i, fetch=piece != self._layers[-1])
            self._finish_drains(*self._sums_range(piece)[1:])
            return tensors

        def work(tensors: tuple[list[Tensor], list[Tensor]], one: Microbatch) -> None:
            with self._kept.find(i, one.number) as memory:
                # Nobody else holds what is recalled, so that it can be let go of bit by bit.
                self._model.layer_backward(
                    i, *tensors, self._model.recall(*tensors, memory, *one.ids.shape), one.x, sums
                )

        def leave() -> None:
            self._drain(sums, piece, earlier=not first, last=last)

        return Visit(prepare, work, leave, [self._image_range(piece), self._sums_range(piece)])

    def _embed_backward(self, rows: Rows, last: bool) -> None:
        if self._model.embedding_multiplier != 1:
            self._stream[: rows.tokens] *= self._model.embedding_multiplier

        def add(part: tuple[Shard, Window]) -> None:
            shard, window = part
            sums = self._buffer("sums", window, self._sums.dtype).zero_()
            bound = rows.add(window.start - self._embedding.start, sums, self._stream, self._adder)
            self._bound(WTE, bound)
            bring_home(self._systems, [(shard.index, sums)])
            if shard in self.own:
                self._leave_window(shard, window, sums, earlier=True, last=last)

        # Systems talk to each other in one order.
        pool = self._clerks if self._systems.size == 1 else self._conductor
        list(pool.map(add, self._windows(self._embedding)))

    # What arrives.

    def _look_up(self, rows: Rows) -> None:
        def look_up(part: tuple[Shard, Window]) -> None:
            shard, window = part
            own = shard in self.own
            values = self._store.weights(*part) if own else self._buffer("values", window, torch.float32)
            send_out(self._systems, [(shard.index, values)])
            rows.look_up(window.start - self._embedding.start, values, self._stream, self._positions)

        looking = []
        for part in self._windows(self._embedding):
            self._updated(part[0])
            if self._systems.size == 1:
                looking.append(self._carriers.submit(look_up, part))
            else:
                look_up(part)
        for one in looking:
            one.result()

    def _fetch(self, piece: Piece) -> None:
        """Image and vectors of a piece, from the store and the other systems."""
        shards = self._shards[piece.name]
        parts = [
            (shard.index, self._image(piece)[shard.start - piece.start :][: matrix_part(shard)]) for shard in shards
        ]
        fetching = []
        for shard, (_, part) in zip(shards, parts, strict=True):
            if shard in self.own:
                self._updated(shard)
                fetching.append(self._carriers.submit(self._store.image, shard, part))
        for one in fetching:
            one.result()
        send_out(self._systems, parts)
        send_out(self._systems, [(shard.index, self._store.vectors.shard(shard)) for shard in shards])

    def _layer_tensors(self, i: int, fetch: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """The layer's vectors, with nothing in the places of matrices, and its image."""
        piece = self._layers[i]
        if fetch:
            self._fetch(piece)
        vectors, nothing = self._vectors(piece), torch.empty(0)
        image = Weights(self._model.shape, self._image(piece), piece)
        return [vectors.get(f"transformer.h.{i}.{name}", nothing) for name in LAYER_TENSORS], image.layer(i)

    def _vectors(self, piece: Piece) -> dict[str, Tensor]:
        flat, start = self._store.vectors.piece(piece), 0
        found = {}
        for name, view in Weights(self._model.shape, self._image(piece), piece).items():
            if view.ndim == 1:
                found[name] = flat[start : start + len(view)]
                start += len(view)
        return found

    # What leaves.

    def _drain(self, sums: Sums, piece: Piece, earlier: bool, last: bool) -> None:
        """The sums of a piece leave for the store, where `earlier` ones of the step are; their memory is zero again."""
        for name, bound in zip(sums.into, sums.bounds, strict=True):
            self._bound(name, float(bound))
        flat, base = sums.into.flat, self._slots.sums[piece.name]
        shards = self._shards[piece.name]
        bring_home(self._systems, [(s.index, flat[s.start - piece.start : s.stop - piece.start]) for s in shards])

        def leave(part: tuple[Shard, Window]) -> None:
            shard, window = part
            own = flat[window.start - piece.start : window.stop - piece.start]
            if shard in self.own:
                self._leave_window(shard, window, own, earlier, last)
            own.zero_()

        for part in self._windows(piece):
            start, stop = base + part[1].start - piece.start, base + part[1].stop - piece.start
            self._drains.append((start, stop, self._clerks.submit(leave, part)))

    def _leave_window(self, shard: Shard, window: Window, sums: Tensor, earlier: bool, last: bool) -> None:
        if earlier:
            sums += self._store.sums(shard, window)
        if last:
            self.squares.extend(list(self._squares_of(shard, window, sums)))
            self._store.put_gradient(shard, window, sums, self._adder.unit)
        else:
            self._store.put_sums(shard, window, sums)

    def _finish_drains(self, start: int, stop: int) -> None:
        """Waits until what was in that part of the sums' memory has left it."""
        left = []
        for drain in self._drains:
            if drain[0] < stop and start < drain[1]:
                drain[2].result()
            else:
                left.append(drain)
        self._drains = left

    def _bound(self, name: str, more: float) -> None:
        with self._lock:
            self.bounds[self._places[name]] += more

    def _windows(self, piece: Piece) -> list[tuple[Shard, Window]]:
        return [(shard, window) for shard in self._shards[piece.name] for window in windows_of(shard)]

    # Memory.

    def _image(self, piece: Piece) -> Tensor:
        start = self._slots.image.get(piece.name, 0)
        return self._images[start : start + piece.stop - piece.start]

    def _sums_of(self, piece: Piece) -> Sums:
        _, start, stop = self._sums_range(piece)
        sums = Sums(Weights(self._model.shape, self._sums[start:stop], piece), self._kernels)
        sums.begin(self._step_tokens)
        return sums

    def _image_range(self, piece: Piece) -> tuple[str, int, int]:
        start = self._slots.image[piece.name]
        return "images", start, start + piece.stop - piece.start

    def _sums_range(self, piece: Piece) -> tuple[str, int, int]:
        start = self._slots.sums[piece.name]
        return "sums", start, start + piece.stop - piece.start

    def _buffer(self, name: str, window: Window, dtype: torch.dtype) -> Tensor:
        """The calling thread's buffer of that name."""
        if not hasattr(self._threads, name):
            largest = largest_window(self._shards[self._embedding.name])
            setattr(self._threads, name, _elements(largest, dtype))
        buffer: Tensor = getattr(self._threads, name)
        return buffer[: window.stop - window.start]


class _Both(Gradients):
    """Gradients of two pieces."""

    def __init__(self, one: Sums, other: Sums) -> None:
        self.one, self.other = one, other

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """As `Gradients` says."""
        (self.one if name in self.one.into else self.other).add(name, gradient, start)

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        (self.one if name in self.one.into else self.other).add_rows(name, ids, gradient)


def _elements(count: int, dtype: torch.dtype) -> Tensor:
    return pages(count * dtype.itemsize).view(dtype)[:count]
