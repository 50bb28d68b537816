"""The inputs of layers between their forward and their backward pass through a GPU: on it, or in host memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isoflop.streaming.pages import pages
from isoflop.streaming.store import Counter


class Inputs:
    """Of every layer, (tokens, d) for the tokens of a group. Calls are the computing thread's, in the order of a pass.

    Layers take turns at `slots` on the device. What is written to a slot leaves for locked host memory on a stream of
    its own, and comes back as soon as the layer above that has the slot is done with it. The last layers' stay in the
    slots, as they are wanted first; with a slot for every layer all do.

    `at` is the device's module of streams, `record` makes an event of the calling thread's stream, `moved` counts.
    """

    def __init__(
        self,
        n_layers: int,
        slots: int,
        size: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        at: Any,
        record: Callable[[], Any],
        moved: Counter,
    ) -> None:
        self._at, self._record, self._moved = at, record, moved
        self.slots = [torch.empty(*size, dtype=dtype, device=device) for _ in range(min(slots, n_layers))]
        away = n_layers - len(self.slots)
        n_bytes = away * size[0] * size[1] * dtype.itemsize
        self._host = pages(n_bytes, device)[:n_bytes].view(dtype).view(away, *size)
        self._leaving, self._arriving = at.Stream(), at.Stream()
        self._gone: dict[int, Any] = {}
        self._there: dict[int, Any] = {}
        self._tokens = 0

    def leave(self, layer: int) -> Tensor:
        """Where to write them."""
        if layer - len(self.slots) in self._gone:
            self._gone.pop(layer - len(self.slots)).wait()
        return self._slot(layer)

    def left(self, layer: int, tokens: int) -> None:
        """They have been asked for, of so many tokens, on the stream that computes."""
        self._tokens = tokens
        if layer < len(self._host):
            written = self._record()
            with self._at.stream(self._leaving):
                self._leaving.wait_event(written)
                self._gone[layer] = self._copy(self._host[layer], self._slot(layer))

    def find(self, layer: int) -> Tensor:
        """Them, for what the stream that computes is asked from now on."""
        if layer in self._there:
            self._there.pop(layer).wait()
        return self._slot(layer)

    def done(self, layer: int) -> None:
        """All that they are needed for has been asked of the stream that computes."""
        below = layer - len(self.slots)
        if below >= 0:
            read = self._record()
            with self._at.stream(self._arriving):
                self._arriving.wait_event(read)  # and so for their leaving, on which the layer above waited
                self._there[below] = self._copy(self._slot(layer), self._host[below])

    def _slot(self, layer: int) -> Tensor:
        return self.slots[layer % len(self.slots)]

    def _copy(self, into: Tensor, source: Tensor) -> Any:
        """Copies on the stream that is current; the event after it."""
        part = into[: self._tokens]
        part.copy_(source[: self._tokens], non_blocking=True)
        self._moved.add(part)
        return self._record()
