"""The sum of a step's gradients, in fixed point by default: there addition is associative, so that neither the order
of microbatches nor the system that computed them changes a bit.

Fixed point is 64-bit integers in units of 2^-48: a mean gradient's element may be as large as 2^14, and what lies below
4e-15 is dropped, where bf16 products have long rounded (to 1 in 256 of each piece). Elements are those of the gradient
of the step's mean loss.
"""

import math
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.model import Gradients, Kernels, Weights

UNIT = 2.0**-48
LARGEST = 2.0**62  # in units; one bit is left for what the bound below rounds
# Elements of a gradient that a device turns into fixed point at once.
SLICE = 2**24


class Adder:
    """Adds parts of a gradient to sums of type int64, in fixed point, or fp32.

    Every call tells the largest magnitude, in units, that it added: NaN or infinity if one was among them.
    """

    def __init__(self, dtype: torch.dtype, kernels: Kernels | None) -> None:
        self.unit = UNIT if dtype == torch.int64 else 1.0
        self.fixed = dtype == torch.int64
        self._kernels = kernels
        self._scale = 0.0

    def begin(self, step_tokens: int) -> None:
        """A step of that many tokens begins: what is added is the gradient of a sum over them."""
        self._scale = 1.0 / (self.unit * step_tokens)

    def add(self, target: Tensor, gradient: Tensor) -> float:
        """Adds `gradient` to `target` (elements,)."""
        if self._kernels is None:
            scaled = gradient.reshape(-1).float() * self._scale
            target += scaled.to(target.dtype)
            return float(scaled.abs().max())
        half = int(gradient.dtype == torch.bfloat16)
        count = gradient.numel()
        return _float_of(
            self._kernels.add_gradient(int(self.fixed), half, count, gradient.contiguous(), self._scale, target)
        )

    def add_rows(self, target: Tensor, ids: Tensor, gradient: Tensor) -> float:
        """Adds fp32 rows (n, d) to the rows `ids` (n) of `target` (rows, d)."""
        if self._kernels is None:
            scaled = gradient * self._scale
            target.index_add_(0, ids, scaled.to(target.dtype))
            return float(scaled.abs().max())
        rows, d = gradient.shape
        return _float_of(self._kernels.scatter_gradient(int(self.fixed), rows, d, ids, gradient, self._scale, target))

    def within(self, bounds: npt.NDArray[np.float64]) -> bool:
        """Whether all that was added is finite and no sum can have left its bits.

        `bounds` are the largest magnitudes of all systems, added up: what each tensor's elements can have reached.
        """
        return bool((bounds < (LARGEST if self.fixed else math.inf)).all())


class Sums(Gradients):
    """Adds up gradients of summed losses, each divided by the step's tokens. Threads may add at once.

    `into` is zero at the start of a step (the optimizer clears it): int64 in fixed point, or fp32.
    """

    def __init__(self, into: Weights, kernels: Kernels | None) -> None:
        self.into = into
        self._adder = Adder(into.flat.dtype, kernels)
        self.unit = self._adder.unit
        self.within = self._adder.within
        self._locks = {name: threading.Lock() for name in into}
        self._places = {name: i for i, name in enumerate(into)}
        self.bounds = np.zeros(len(into))

    def begin(self, step_tokens: int) -> None:
        """A step of that many tokens begins."""
        self._adder.begin(step_tokens)
        self.bounds[:] = 0.0

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """As `Gradients` says."""
        start += self.into.offsets[name]
        with self._locks[name]:
            self._bound(name, self._adder.add(self.into.flat[start : start + gradient.numel()], gradient))

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        with self._locks[name]:
            self._bound(name, self._adder.add_rows(self.into[name], ids, gradient) * len(ids))

    def _bound(self, name: str, more: float) -> None:
        self.bounds[self._places[name]] += more if math.isfinite(more) else math.inf


class MarkedSums(Sums):
    """Sums on a device. Bounds stay there as well, as `marks` (tensors,): no gradient waits until one is read.

    `places` says where a tensor's mark is. On the calling thread alone.
    """

    def __init__(self, into: Weights, marks: Tensor | None = None, places: dict[str, int] | None = None) -> None:
        super().__init__(into, None)
        device = into.flat.device
        self.marks = torch.zeros(len(into), dtype=torch.float64, device=device) if marks is None else marks
        self._of = self._places if places is None else places
        self._scale = torch.zeros((), device=device)
        self._add: Callable[..., Tensor] = add_scaled

    def compile(self) -> None:
        """From now on one compiled function of any length adds."""
        self._add = torch.compile(add_scaled, dynamic=True)

    def begin(self, step_tokens: int) -> None:
        """As `Sums` says; marks are cleared by whoever reads them."""
        self._scale.fill_(1.0 / (self.unit * step_tokens))

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """As `Gradients` says."""
        start += self.into.offsets[name]
        target = self.into.flat[start : start + gradient.numel()]
        parts = zip(torch.split(target, SLICE), torch.split(gradient.reshape(-1), SLICE), strict=True)
        most = torch.stack([self._add(own, part, self._scale) for own, part in parts]).amax()
        self.marks[self._of[name]] += most

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""
        scaled = gradient * self._scale
        self.into[name].index_add_(0, ids, scaled.to(self.into.flat.dtype))
        self.marks[self._of[name]] += scaled.abs().amax() * len(ids)


def add_scaled(target: Tensor, gradient: Tensor, scale: Tensor) -> Tensor:
    """Adds `gradient` times `scale` to `target`, both (elements,); the largest magnitude that was added."""
    scaled = gradient.float() * scale
    target += scaled.to(target.dtype)
    return scaled.abs().amax()


def _float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))
