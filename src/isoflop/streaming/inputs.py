"""The inputs of layers between their forward and their backward pass through a GPU: on it, or in host memory.

In host memory they go by two slots on the device: one that is written or read, and one that leaves or arrives on a
stream of its own. Those of the two last layers stay in the slots, as they are wanted first.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from isoflop.streaming.pages import pages
from isoflop.streaming.store import Counter

SLOTS = 2


class Inputs(Protocol):
    """Of every layer, (tokens, d) for the tokens of a group. Calls are the computing thread's, in the order of a pass.

    `device_tensors` are all that is held on the device.
    """

    device_tensors: list[Tensor]

    def leave(self, layer: int) -> Tensor:
        """Where to write them."""

    def left(self, layer: int, tokens: int) -> None:
        """They have been asked for, of so many tokens, on the stream that computes."""

    def find(self, layer: int) -> Tensor:
        """Them, for what the stream that computes is asked from now on."""

    def done(self, layer: int) -> None:
        """All that they are needed for has been asked of the stream that computes."""


class InputsOnDevice(Inputs):
    """They stay where they are."""

    def __init__(self, n_layers: int, tokens: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
        self._inputs = torch.empty(n_layers, tokens, d, dtype=dtype, device=device)
        self.device_tensors = [self._inputs]

    def leave(self, layer: int) -> Tensor:
        """As `Inputs` says."""
        return self._inputs[layer]

    def left(self, layer: int, tokens: int) -> None:
        """As `Inputs` says."""

    def find(self, layer: int) -> Tensor:
        """As `Inputs` says."""
        return self._inputs[layer]

    def done(self, layer: int) -> None:
        """As `Inputs` says."""


class InputsInHost(Inputs):
    """They leave for host memory that is locked for the device, and come back one layer ahead.

    `at` is the device's module of streams, `record` makes an event of the calling thread's stream, `counter` counts.
    """

    def __init__(
        self,
        n_layers: int,
        tokens: int,
        d: int,
        dtype: torch.dtype,
        device: torch.device,
        at: Any,
        record: Callable[[], Any],
        counter: Counter,
    ) -> None:
        self._n_layers, self._at, self._record, self._counter = n_layers, at, record, counter
        self._slots = [torch.empty(tokens, d, dtype=dtype, device=device) for _ in range(min(SLOTS, n_layers))]
        self.device_tensors = self._slots
        away = max(0, n_layers - SLOTS)
        n_bytes = away * tokens * d * dtype.itemsize
        self._host = pages(n_bytes, device)[:n_bytes].view(dtype).view(away, tokens, d)
        self._leaving, self._arriving = at.Stream(), at.Stream()
        self._gone: dict[int, Any] = {}
        self._there: dict[int, Any] = {}
        self._tokens = 0

    def leave(self, layer: int) -> Tensor:
        """As `Inputs` says."""
        if layer - SLOTS in self._gone:
            self._gone[layer - SLOTS].wait()
        return self._slots[layer % SLOTS]

    def left(self, layer: int, tokens: int) -> None:
        """As `Inputs` says."""
        self._tokens = tokens
        if layer < len(self._host):
            written = self._record()
            with self._at.stream(self._leaving):
                self._leaving.wait_event(written)
                self._gone[layer] = self._copy(self._host[layer], self._slots[layer % SLOTS])

    def find(self, layer: int) -> Tensor:
        """As `Inputs` says."""
        if layer in self._there:
            self._there.pop(layer).wait()
        return self._slots[layer % SLOTS]

    def done(self, layer: int) -> None:
        """As `Inputs` says: the slot is free for the layer below that has its place there."""
        below = layer - SLOTS
        if below >= 0:
            read = self._record()
            with self._at.stream(self._arriving):
                self._arriving.wait_event(read)
                self._arriving.wait_event(self._gone.pop(below))
                self._there[below] = self._copy(self._slots[layer % SLOTS], self._host[below])

    def _copy(self, into: Tensor, source: Tensor) -> Any:
        """Copies on the stream that is current; the event after it."""
        part = into[: self._tokens]
        part.copy_(source[: self._tokens], non_blocking=True)
        self._counter.add(part)
        return self._record()
