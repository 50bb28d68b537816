"""What a functional form of a scaling law is to those who fit it, draw from it and foretell with it.

A parameter vector `theta` holds what the optimiser works in (logarithms of scales); `named` gives the names papers use.
Inputs `x` (inputs, points) are natural logarithms of the form's `inputs`; losses are natural logarithms too.
"""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Named = dict[str, float | None]
# A floor below this share of the loss cannot be told from none.
NOTHING = 1e-6


class Form(Protocol):
    """A law's shape. `theta` may carry any batch of parameter vectors behind its first axis."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def n_parameters(self) -> int: ...

    def centre(self, x: Array) -> Array:
        """What to take from inputs x before a fit: its condition falls from 1e11 to that of the exponents alone."""

    def log_loss(self, theta: Array, x: Array) -> Array:
        """(..., points) for theta (n_parameters, ...)."""

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """(..., points) and its derivative by each parameter (n_parameters, ..., points)."""

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """Parameter vectors to descend from, spread over all shapes the form can take near log losses y (points)."""

    def shifted(self, theta: Array, by: Array) -> Array:
        """The parameters for inputs x, given those for inputs x - by."""

    def named(self, theta: Array) -> Named:
        """Of one parameter vector; None stands for infinity: no ceiling, no scale."""

    def equation(self, theta: Array) -> str:
        """The law with its numbers, for people."""


def exp_or_none(x: float) -> float | None:
    """None where a double overflows."""
    return math.exp(x) if x < 700 else None


def floor_of(log_floor: float) -> float:
    """E, and 0 where it cannot be told from none."""
    floor = math.exp(log_floor)
    return floor if floor > NOTHING else 0.0


def shown(named: Named) -> dict[str, str]:
    """Four digits of each, for an equation."""
    return {name: "inf" if value is None else f"{value:.4g}" for name, value in named.items()}
