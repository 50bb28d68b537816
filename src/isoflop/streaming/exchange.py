"""What every executor of streamed passes does at the store and with the other systems, wherever it computes.

Systems send their shards of a piece to each other as it arrives, and add up the gradients at their owners as it leaves.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isoflop.model import Gradients, Kernels, Piece, Shard, Weights, pieces_of, shards_of, tensor_sizes
from isoflop.model.passes import Passes
from isoflop.model.weights import LAYER_TENSORS
from isoflop.streaming.embedding import Rows
from isoflop.streaming.pages import pages
from isoflop.streaming.store import Counter, Store, Window, largest_window, matrix_part, windows_of
from isoflop.streaming.visits import Microbatch
from isoflop.systems.device import begin_thread
from isoflop.systems.group import Systems, bring_home, owner, send_out
from isoflop.systems.sums import Adder, Sums

WTE, WPE = "transformer.wte.weight", "transformer.wpe.weight"
# The sums of squares of the parts of a window of a shard's gradient.
Squares = Callable[[Shard, Window, Tensor], Iterable[float]]


@dataclass(frozen=True)
class Surroundings:
    """Whom an executor works with.

    `most` microbatches make a group; each is (B, T) of ids, `microbatch_tokens` together. `updated` waits until a
    shard's weights are those after the last step, `settled` until that step is done with its gradient. `carriers` read
    and write, `clerks` also compute. `kernels` are for what is done on the host. `moved` counts bytes between device
    and store. On a CPU, with `embeddings_stay` the embeddings' sums stay where they are made; on a GPU, with `offload`
    inputs of layers wait in host memory, and images of the first `staying` layers are sent once a step.
    """

    kernels: Kernels | None
    systems: Systems
    sums_dtype: torch.dtype
    most: int
    microbatch_tokens: int
    squares: Squares
    carriers: ThreadPoolExecutor
    clerks: ThreadPoolExecutor
    updated: Callable[[Shard], None]
    settled: Callable[[Shard], None]
    moved: Counter
    offload: bool = False
    staying: int = 0
    embeddings_stay: bool = False


class Exchange:
    """Computes the gradients of a model whose weights are in `store`, and leaves them there; `_group` says how."""

    def __init__(self, model: Passes, store: Store, device: torch.device, given: Surroundings) -> None:
        self._model, self._store, self._device = model, store, device
        self._systems, self._kernels, self._most = given.systems, given.kernels, given.most
        self._squares_of, self._sums_dtype = given.squares, given.sums_dtype
        shape = model.shape
        self._pieces, shards = pieces_of(shape), shards_of(shape)
        self._embedding, *self._layers, self._final = self._pieces
        self._shards = {piece.name: [shard for shard in shards if shard.piece == piece] for piece in self._pieces}
        self.own = [shard for shard in shards if owner(shard.index, self._systems) == self._systems.rank]
        self._largest = largest_window(shards)
        d = shape.d_model
        self._stream = self._elements(given.most * given.microbatch_tokens * d, torch.float32).view(-1, d)
        self._positions = self._elements(shape.context_length * d, torch.float32).view(-1, d)
        self._adder = Adder(given.sums_dtype, given.kernels)
        self._places = {name: i for i, name in enumerate(tensor_sizes(shape))}
        self.bounds = np.zeros(len(self._places))
        self.squares: list[float] = []
        self._threads, self._lock = threading.local(), threading.Lock()
        self._carriers, self._clerks = given.carriers, given.clerks
        self._updated, self._settled = given.updated, given.settled
        self._moved = given.moved
        # Systems talk to each other in one order: its.
        self._conductor = ThreadPoolExecutor(1, "conductor", begin_thread, (device,))

    def close(self) -> None:
        """No more passes."""
        self._conductor.shutdown(cancel_futures=True)

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

    def _group(self, samples: Sequence[Tensor], first: bool, last: bool) -> list[float]:
        """The passes of one group, which is the step's `first` or `last`; its nats."""
        raise NotImplementedError

    def _batch(self, samples: Sequence[Tensor], x: Tensor) -> list[Microbatch]:
        """The microbatches of a group, whose streams lie one after the other in `x` (tokens, d)."""
        batch, first = [], 0
        for i, one in enumerate(samples):
            there = one.to(self._device)
            ids, targets = there[:, :-1].contiguous(), there[:, 1:].reshape(-1)
            batch.append(Microbatch(i, ids, targets, x[first : first + len(targets)]))
            first += len(targets)
        return batch

    # Embeddings: rows of the group's tokens.

    def _embed_backward(self, rows: Rows, last: bool) -> None:
        if self._model.embedding_multiplier != 1:
            self._stream[: rows.tokens] *= self._model.embedding_multiplier

        def add(part: tuple[Shard, Window]) -> None:
            shard, window = part
            sums = self._take_up(shard, window)
            bound = rows.add(window.start - self._embedding.start, sums, self._stream, self._adder)
            self._bound(WTE, bound)
            bring_home(self._systems, [(shard.index, sums)])
            self._put_down(shard, window, sums, last)

        pool = self._clerks if self._systems.size == 1 else self._conductor
        list(pool.map(add, self._windows(self._embedding)))

    def _take_up(self, shard: Shard, window: Window) -> Tensor:
        """A window of the embeddings' sums as the head has left them at the owner; zeros elsewhere."""
        if shard in self.own:
            return self._store.sums(shard, window)
        return self._buffer("sums", window, self._sums_dtype).zero_()

    def _put_down(self, shard: Shard, window: Window, sums: Tensor, last: bool) -> None:
        """They have got the rows' gradients."""
        if shard in self.own:
            self._leave_window(shard, window, sums, earlier=False, last=last)

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

    # What arrives, and what leaves.

    def _fetch(self, piece: Piece, image: Tensor) -> None:
        """Image (its elements,) and vectors of a piece, from the store and the other systems."""
        shards = self._shards[piece.name]
        parts = [(shard.index, image[shard.start - piece.start :][: matrix_part(shard)]) for shard in shards]
        fetching = []
        for shard, (_, part) in zip(shards, parts, strict=True):
            if shard in self.own:
                self._updated(shard)
                fetching.append(self._carriers.submit(self._store.image, shard, part))
        for one in fetching:
            one.result()
        send_out(self._systems, parts)
        send_out(self._systems, [(shard.index, self._store.vectors.shard(shard)) for shard in shards])

    def _tensors(self, i: int, image: Weights, vectors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A layer's `vectors` with nothing in the places of matrices, and its image."""
        named, nothing = vectors_of(image, vectors), torch.empty(0)
        return [named.get(f"transformer.h.{i}.{name}", nothing) for name in LAYER_TENSORS], image.layer(i)

    def _leave_window(self, shard: Shard, window: Window, sums: Tensor, earlier: bool, last: bool) -> None:
        if earlier:
            sums += self._store.sums(shard, window)
        if last:
            self._settled(shard)
            self.squares.extend(list(self._squares_of(shard, window, sums)))
            self._store.put_gradient(shard, window, sums, self._adder.unit)
        else:
            self._store.put_sums(shard, window, sums)

    def _bound(self, name: str, more: float) -> None:
        with self._lock:
            self.bounds[self._places[name]] += more

    def _windows(self, piece: Piece) -> list[tuple[Shard, Window]]:
        return [(shard, window) for shard in self._shards[piece.name] for window in windows_of(shard)]

    def _buffer(self, name: str, window: Window, dtype: torch.dtype) -> Tensor:
        """The calling thread's buffer of that name."""
        if not hasattr(self._threads, name):
            setattr(self._threads, name, self._elements(self._largest, dtype))
        buffer: Tensor = getattr(self._threads, name)
        return buffer[: window.stop - window.start]

    def _elements(self, count: int, dtype: torch.dtype) -> Tensor:
        """Host memory of exactly that size, which the device reads and writes by itself."""
        return pages(count * dtype.itemsize, self._device).view(dtype)[:count]


def vectors_of(image: Weights, flat: Tensor) -> dict[str, Tensor]:
    """The vectors of the image's piece by their names; `flat` holds them one after the other."""
    found, start = {}, 0
    for name, view in image.items():
        if view.ndim == 1:
            found[name] = flat[start : start + len(view)]
            start += len(view)
    return found


class Both(Gradients):
    """Gradients of two pieces."""

    def __init__(self, one: Sums, other: Sums) -> None:
        self.one, self.other = one, other

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """As `Gradients` says."""
        (self.one if name in self.one.into else self.other).add(name, gradient, start)

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        (self.one if name in self.one.into else self.other).add_rows(name, ids, gradient)
