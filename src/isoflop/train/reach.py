"""Matrices of layers that no gradient reaches: what such a layer computes is not used, it is dead."""

from itertools import accumulate
from math import prod

import numpy as np
from torch import Tensor

from isoflop.model.weights import tensor_sizes
from isoflop.recipe import Shape
from isoflop.systems.group import Systems

# Steps from one look at the gradients to the next. The first weights may let none through, and by then have moved.
LOOK_EVERY = 16
# A healthy matrix has an element other than zero among the first few.
FEW = 1024


class Reach:
    """Which matrices of the layers a gradient reaches, told part by part of the flat buffer."""

    def __init__(self, shape: Shape) -> None:
        sizes = tensor_sizes(shape)
        ends = accumulate(prod(size) for size in sizes.values())
        self._ranges = [
            (name, stop - prod(size), stop)
            for (name, size), stop in zip(sizes.items(), ends, strict=True)
            if ".h." in name and len(size) == 2
        ]
        self._reached = np.zeros(len(self._ranges))

    def see(self, start: int, gradient: Tensor) -> None:
        """(elements,) of the gradient, which begin at `start`; parts may be seen by several threads."""
        for i, (_, first, last) in enumerate(self._ranges):
            if not self._reached[i] and first < start + len(gradient) and start < last:
                part = gradient[max(first - start, 0) : last - start]
                self._reached[i] = bool(part[:FEW].any()) or bool(part.any())

    def missed(self, systems: Systems) -> tuple[str, ...]:
        """Names of the matrices that no system saw any gradient of; all systems ask alike."""
        reached = systems.gather(self._reached).max(axis=0)
        return tuple(name for (name, _, _), there in zip(self._ranges, reached, strict=True) if not there)
