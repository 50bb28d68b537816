"""The sum of a step's gradients in fixed point, where addition is associative: equal bits in whatever order it happens.

64-bit integers in units of 2^-48: a mean gradient's element may be as large as 2^14, and what lies below 4e-15 is
dropped, where bf16 products have long rounded (to 1 in 256 of each piece). Elements are those of the gradient of the
step's mean loss.
"""

import math
import threading
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from isoflop.model import Gradients, Kernels, Weights
from isoflop.recipe import Shape

UNIT = 2.0**-48
LARGEST = 2.0**62  # in units; one bit is left for what the bound below rounds


class FixedSums(Gradients):
    """Adds up gradients of summed losses, each divided by the step's tokens. Threads may add at once."""

    def __init__(self, shape: Shape, kernels: Kernels | None) -> None:
        self.sums = Weights(shape, torch.zeros(shape.params, dtype=torch.int64))
        self._kernels = kernels
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._bounds: dict[str, float] = {}
        self._scale = 0.0

    def begin(self, step_tokens: int) -> None:
        """A step of that many tokens begins; `sums` are zero (the optimizer clears them)."""
        self._scale = 1.0 / (UNIT * step_tokens)
        self._bounds = {}

    def within_bounds(self) -> bool:
        """Whether all that was added is finite and no sum can have left the 64 bits."""
        return all(bound < LARGEST for bound in self._bounds.values())

    def add(self, name: str, gradient: Tensor) -> None:
        """As `Gradients` says."""
        count, start = gradient.numel(), self.sums.offsets[name]
        with self._locks[name]:
            target = self.sums.flat[start : start + count]
            if self._kernels is None:
                scaled = gradient.reshape(-1).float() * self._scale
                target += scaled.to(torch.int64)
                largest = float(scaled.abs().max())
            else:
                half = int(gradient.dtype == torch.bfloat16)
                bits = self._kernels.add_fixed(half, count, gradient.contiguous(), self._scale, target)
                largest = _float_of(bits)
            self._bound(name, largest)

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        rows, d = gradient.shape
        with self._locks[name]:
            if self._kernels is None:
                scaled = gradient * self._scale
                self.sums[name].index_add_(0, ids, scaled.to(torch.int64))
                largest = float(scaled.abs().max())
            else:
                bits = self._kernels.scatter_fixed(rows, d, ids, gradient, self._scale, self.sums[name])
                largest = _float_of(bits)
            self._bound(name, largest * rows)

    def _bound(self, name: str, more: float) -> None:
        bound = self._bounds.get(name, 0.0) + more
        self._bounds[name] = bound if math.isfinite(bound) else math.inf


def _float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))
