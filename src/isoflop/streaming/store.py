"""Where streamed weights and optimizer state live, and what may be asked of that place."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from isoflop.errors import ChangedError
from isoflop.model import Piece, Shard
from isoflop.streaming.checksum import checksum
from isoflop.streaming.pages import pages

# State passes through memory in windows of this many elements; the optimizer's chunks divide it. State files have a
# checksum for each window, so it is a part of their format.
WINDOW = 2**19


@dataclass(frozen=True)
class Window:
    """The range [start : stop] of the flat buffer."""

    start: int
    stop: int

    def of(self, shard: Shard) -> slice:
        """Where it lies in the shard."""
        return slice(self.start - shard.start, self.stop - shard.start)


def windows_of(shard: Shard) -> list[Window]:
    """The windows of a shard in order. Matrices are cut every WINDOW elements; vectors join what comes before them."""
    vectors = max(shard.start, min(shard.stop, shard.piece.vectors))
    starts = list(range(shard.start, vectors, WINDOW)) or list(range(shard.start, shard.stop, WINDOW))
    return [Window(*cut) for cut in zip(starts, [*starts[1:], shard.stop], strict=True)]


def matrix_part(shard: Shard) -> int:
    """How many of the shard's elements, its first ones, belong to matrices."""
    return max(0, min(shard.stop, shard.piece.vectors) - shard.start)


@dataclass(frozen=True)
class State:
    """What an update reads and changes in one window, each (elements,), the image in the precision of products."""

    gradient: Tensor
    weights: Tensor
    first_moment: Tensor
    second_moment: Tensor
    image: Tensor


# Updates the window of a shard in place.
Work = Callable[[Window, State], None]


class Store(Protocol):
    """The shards of one system: fp32 weights and moments, an image of the matrices to send, sums of gradients.

    Threads may call at once, for different shards or windows. Tensors that a call returns are valid until the thread's
    next call. `vectors` holds all vectors of this system's shards as they are after the newest update: they are small,
    and products do not read them. What calls other than those of create and update move is counted.
    """

    vectors: "Vectors"

    def create(self, shard: Shard, weights: Tensor) -> None:
        """A shard's first state: fp32 `weights` (elements,), moments of zero."""

    def image(self, shard: Shard, into: Tensor) -> None:
        """Fills `into` (matrix_part(shard),) with the image; it has room for whole blocks."""

    def weights(self, shard: Shard, window: Window) -> Tensor:
        """The window's fp32 weights."""

    def sums(self, shard: Shard, window: Window) -> Tensor:
        """What `put_sums` left in this step."""

    def put_sums(self, shard: Shard, window: Window, sums: Tensor) -> None:
        """Keeps sums of gradients until more come; `sums` has room for whole blocks."""

    def put_gradient(self, shard: Shard, window: Window, sums: Tensor, unit: float) -> None:
        """The step's gradient, `sums` times `unit`, whole."""

    def seal(self, shard: Shard, step: int) -> None:
        """The gradient of that step is whole: what is here now survives a crash."""

    def update(self, shard: Shard, window: Window, step: int, work: Work) -> None:
        """Makes the window's state after `step`; all windows of a shard have their turn, once."""

    def commit(self, shard: Shard, step: int) -> None:
        """All windows are updated: the shard's state is that after `step`."""

    def at_hand(self, shard: Shard) -> bool:
        """Whether image and weights can be had once all windows are updated, before `commit`."""

    def check(self, shard: Shard) -> None:
        """Whether what is in memory of the shard is what the last update left.

        Raises:
            ChangedError: it is another.
        """


class Vectors:
    """The fp32 vectors of the shards of all pieces; locked for a GPU as `device`."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device | None) -> None:
        self._of = {}
        for piece in pieces:
            count = piece.stop - piece.vectors
            self._of[piece.name] = pages(4 * count, device).view(torch.float32)[:count]
        # By shard and window: what was taken of it last, and its checksum.
        self._taken: dict[tuple[int, int], tuple[str, Tensor, int]] = {}

    def piece(self, piece: Piece) -> Tensor:
        """All vectors of the piece, one after the other."""
        return self._of[piece.name]

    def shard(self, shard: Shard) -> Tensor:
        """Those that the shard holds."""
        first = max(shard.start, shard.piece.vectors) - shard.piece.vectors
        return self._of[shard.piece.name][first : max(first, shard.stop - shard.piece.vectors)]

    def take(self, shard: Shard, window: Window, weights: Tensor) -> None:
        """Takes over the vectors in the window's `weights`."""
        first = max(window.start, shard.piece.vectors)
        if first < window.stop:
            start = first - shard.piece.vectors
            part = weights[first - window.start :]
            own = self._of[shard.piece.name][start : start + len(part)]
            own.copy_(part)
            self._taken[shard.index, window.start] = shard.name, own, checksum(part)

    def check(self) -> None:
        """Whether they are what was taken.

        Raises:
            ChangedError: they are not.
        """
        for name, own, taken in self._taken.values():
            if checksum(own) != taken:
                raise ChangedError(f"a vector of {name}")


class Counter:
    """Counts bytes, from any thread."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, tensor: Tensor) -> None:
        """The tensor has moved."""
        with self._lock:
            self.bytes += tensor.numel() * tensor.itemsize


def largest_window(shards: Sequence[Shard]) -> int:
    """Elements of the largest window."""
    return max((window.stop - window.start for shard in shards for window in windows_of(shard)), default=0)
