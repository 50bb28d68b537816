"""The sum of a step's gradients, in fixed point by default: there addition is associative, so that neither the order
of microbatches nor the system that computed them changes a bit.

Fixed point is 64-bit integers in units of 2^-48: a mean gradient's element may be as large as 2^14, and what lies below
4e-15 is dropped, where bf16 products have long rounded (to 1 in 256 of each piece). Elements are those of the gradient
of the step's mean loss.
"""

import math
import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.model import Gradients, Kernels, Weights

UNIT = 2.0**-48
LARGEST = 2.0**62  # in units; one bit is left for what the bound below rounds


class Sums(Gradients):
    """Adds up gradients of summed losses, each divided by the step's tokens. Threads may add at once.

    `into` is zero at the start of a step (the optimizer clears it): int64 in fixed point, or fp32.
    """

    def __init__(self, into: Weights, kernels: Kernels | None) -> None:
        self.into = into
        self.unit = UNIT if into.flat.dtype == torch.int64 else 1.0
        self._fixed = int(into.flat.dtype == torch.int64)
        self._kernels = kernels
        self._locks = {name: threading.Lock() for name in into}
        self._places = {name: i for i, name in enumerate(into)}
        self.bounds = np.zeros(len(into))
        self._scale = 0.0

    def begin(self, step_tokens: int) -> None:
        """A step of that many tokens begins."""
        self._scale = 1.0 / (self.unit * step_tokens)
        self.bounds[:] = 0.0

    def within(self, bounds: npt.NDArray[np.float64]) -> bool:
        """Whether all that was added is finite and no sum can have left its bits.

        `bounds` are `self.bounds` of all systems, added up: what each tensor's elements can have reached.
        """
        return bool((bounds < (LARGEST if self._fixed else math.inf)).all())

    def add(self, name: str, gradient: Tensor) -> None:
        """As `Gradients` says."""
        count, start = gradient.numel(), self.into.offsets[name]
        with self._locks[name]:
            target = self.into.flat[start : start + count]
            if self._kernels is None:
                scaled = gradient.reshape(-1).float() * self._scale
                target += scaled.to(target.dtype)
                largest = float(scaled.abs().max())
            else:
                half = int(gradient.dtype == torch.bfloat16)
                bits = self._kernels.add_gradient(self._fixed, half, count, gradient.contiguous(), self._scale, target)
                largest = _float_of(bits)
            self._bound(name, largest)

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        rows, d = gradient.shape
        with self._locks[name]:
            target = self.into[name]
            if self._kernels is None:
                scaled = gradient * self._scale
                target.index_add_(0, ids, scaled.to(target.dtype))
                largest = float(scaled.abs().max())
            else:
                bits = self._kernels.scatter_gradient(self._fixed, rows, d, ids, gradient, self._scale, target)
                largest = _float_of(bits)
            self._bound(name, largest * rows)

    def _bound(self, name: str, more: float) -> None:
        self.bounds[self._places[name]] += more if math.isfinite(more) else math.inf


def _float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))
