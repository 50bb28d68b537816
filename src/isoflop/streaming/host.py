"""The store in host memory."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from isoflop.errors import ChangedError
from isoflop.model import Piece, Shard
from isoflop.streaming.checksum import checksum
from isoflop.streaming.pages import pages
from isoflop.streaming.shard_file import TENSORS
from isoflop.streaming.store import Counter, State, Store, Vectors, Window, Work, matrix_part, windows_of


class HostStore(Store):
    """Shards in memory of exactly their size; images are locked where a GPU as `device` takes them from there."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        shards: Sequence[Shard],
        image_dtype: torch.dtype,
        sums_dtype: torch.dtype,
        moved: Counter,
        device: torch.device | None = None,
    ) -> None:
        self.vectors = Vectors(pieces, device)
        self._sums_dtype, self._moved = sums_dtype, moved
        self._state = {shard.index: [_new(shard, torch.float32) for _ in range(4)] for shard in shards}
        self._images = {shard.index: _new(shard, image_dtype, device) for shard in shards}
        # Of what an update leaves in a window, by shard and window: nothing but the next one may change it.
        self._checksums: dict[tuple[int, int], dict[str, int]] = {}
        self._sums: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def state(self, shard: Shard) -> list[Tensor]:
        """The live fp32 weights, first and second moments."""
        return self._state[shard.index][:3]

    def gradient(self, shard: Shard, window: Window) -> Tensor:
        """What `put_gradient` left."""
        return self._state[shard.index][3][window.of(shard)]

    def create(self, shard: Shard, weights: Tensor) -> None:
        """As `Store` says."""
        self.restore(shard, [weights, torch.zeros(1), torch.zeros(1)])

    def restore(self, shard: Shard, state: Sequence[Tensor]) -> None:
        """Takes over weights and moments."""
        for own, given in zip(self.state(shard), state, strict=True):
            own.copy_(given)
        weights = self.state(shard)[0]
        self._images[shard.index].copy_(weights)
        for window in windows_of(shard):
            self._left(shard, window)

    def checksums(self, shard: Shard, window: Window) -> list[int]:
        """Of weights and moments as the last update left them."""
        return [self._checksums[shard.index, window.start][name] for name in TENSORS]

    def at_hand(self, shard: Shard) -> bool:
        """As `Store` says."""
        return True

    def check(self, shard: Shard) -> None:
        """As `Store` says."""
        for window in windows_of(shard):
            self._check_window(shard, window)

    def image(self, shard: Shard, into: Tensor) -> None:
        """As `Store` says."""
        into.copy_(self._images[shard.index][: matrix_part(shard)], non_blocking=True)
        self._moved.add(into)

    def weights(self, shard: Shard, window: Window) -> Tensor:
        """As `Store` says."""
        part = self._state[shard.index][0][window.of(shard)]
        self._moved.add(part)
        return part

    def sums(self, shard: Shard, window: Window) -> Tensor:
        """As `Store` says."""
        part = self._sums[shard.index][window.of(shard)]
        self._moved.add(part)
        return part

    def put_sums(self, shard: Shard, window: Window, sums: Tensor) -> None:
        """As `Store` says."""
        with self._lock:
            if shard.index not in self._sums:
                self._sums[shard.index] = _new(shard, self._sums_dtype)
        self._sums[shard.index][window.of(shard)] = sums
        self._moved.add(sums)

    def put_gradient(self, shard: Shard, window: Window, sums: Tensor, unit: float) -> None:
        """As `Store` says."""
        gradient = self.gradient(shard, window).copy_(sums).mul_(unit)
        self._moved.add(gradient)

    def seal(self, shard: Shard, step: int) -> None:
        """As `Store` says: nothing here survives a crash."""

    def update(self, shard: Shard, window: Window, step: int, work: Work) -> None:
        """As `Store` says.

        Raises:
            ChangedError: the state has changed since the last one.
        """
        self._check_window(shard, window)
        work(window, State(self.gradient(shard, window), *self._lasting(shard, window).values()))
        self._left(shard, window)

    def commit(self, shard: Shard, step: int) -> None:
        """As `Store` says."""

    def _lasting(self, shard: Shard, window: Window) -> dict[str, Tensor]:
        """What stays from one update to the next."""
        tensors = (*self.state(shard), self._images[shard.index])
        return {name: tensor[window.of(shard)] for name, tensor in zip((*TENSORS, "image"), tensors, strict=True)}

    def _left(self, shard: Shard, window: Window) -> None:
        """Takes over the window's vectors, and knows from now on what is there."""
        tensors = self._lasting(shard, window)
        self._checksums[shard.index, window.start] = {name: checksum(one) for name, one in tensors.items()}
        self.vectors.take(shard, window, tensors[TENSORS[0]])

    def _check_window(self, shard: Shard, window: Window) -> None:
        tensors, left = self._lasting(shard, window), self._checksums[shard.index, window.start]
        for name, one in tensors.items():
            if checksum(one) != left[name]:
                raise ChangedError(f"the {name} of {shard.name}")


def _new(shard: Shard, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    elements = shard.stop - shard.start
    return pages(elements * dtype.itemsize, device).view(dtype)[:elements]
