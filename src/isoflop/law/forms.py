"""The functional forms of a scaling law, each with its gradient and its starting points. A new form is a line in FORMS.

A parameter vector `theta` holds what the optimiser works in (logarithms of scales); `named` gives the names papers use.
Inputs `x` (inputs, points) are natural logarithms of the form's `inputs`; losses are natural logarithms too.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
Named = dict[str, float | None]
# A floor below this share of the loss cannot be told from none.
NOTHING = 1e-6


class Form(Protocol):
    """What fitting, drawing and predicting need to know of a form."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def n_parameters(self) -> int: ...

    def log_loss(self, theta: Array, x: Array) -> Array:
        """(..., points) for theta (n_parameters, ...)."""

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """(points) and its derivative by each parameter (n_parameters, points), for one parameter vector."""

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """Parameter vectors to descend from, spread over all shapes the form can take near log losses y (points)."""

    def shifted(self, theta: Array, by: Array) -> Array:
        """The parameters for inputs x, given those for inputs x - by."""

    def named(self, theta: Array) -> Named:
        """None stands for infinity: no ceiling, no scale."""

    def equation(self, theta: Array) -> str:
        """The law with its numbers, for people."""


@dataclass(frozen=True)
class ComputeForm:
    """A line in ln C between a floor E and a ceiling Lmax: (L - E) / (1 - L / Lmax) = exp(c - p ln C).

    Without floor and ceiling a power law; with a floor that of Dey et al. 2023, eq. 1; with a ceiling
    L = Lmax / (1 + (C / C0)^p); with both L = E + (Lmax - E) / (1 + (C / C0)^p). theta = (c, p[, ln E][, -ln Lmax]).

    At tiny compute losses saturate towards that of guessing by word frequency and bend DOWN in log-log, which no floor
    can follow; hence the ceiling. The forms with a ceiling are local: good for a few times the compute of the data.
    """

    name: str
    floor: bool
    ceiling: bool
    inputs: tuple[str, ...] = ("flops",)

    @property
    def n_parameters(self) -> int:
        return 2 + self.floor + self.ceiling

    def log_loss(self, theta: Array, x: Array) -> Array:
        line, floor, ceiling = self._parts(theta, x)
        return np.asarray(np.logaddexp(line, floor) - np.logaddexp(0.0, line + ceiling))

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        line, floor, ceiling = self._parts(theta, x)
        above, below = np.logaddexp(line, floor), np.logaddexp(0.0, line + ceiling)
        floor_share, ceiling_share = np.exp(floor - above), np.exp(line + ceiling - below)
        by_line = 1.0 - floor_share - ceiling_share
        rows = [by_line, -by_line * x[0]] + [floor_share] * self.floor + [-ceiling_share] * self.ceiling
        return above - below, np.stack(rows)

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        loss = np.exp(y)
        found = []
        bends = (0.01, 0.35, 0.7) if self.floor and self.ceiling else (0.01, 0.2, 0.4, 0.6, 0.8)
        for floor in bends if self.floor else (0.0,):
            for ceiling in bends if self.ceiling else (0.0,):
                line = np.log(loss - floor * loss.min()) - np.log(1.0 - ceiling * loss / loss.max())
                slope, c = np.polyfit(x[0], line, 1, w=np.sqrt(weights))
                found.append(self.of_line(c, -slope, np.array(floor * loss.min()), np.array(ceiling / loss.max())))
        return found

    def of_line(self, c: Array, p: Array, floor: Array, inverse_ceiling: Array) -> Array:
        """theta (n_parameters, ...) from the line and the values of E and 1 / Lmax."""
        bends = [floor] * self.floor + [inverse_ceiling] * self.ceiling
        return np.stack([np.asarray(c), np.asarray(p), *(np.log(np.maximum(bend, 1e-12)) for bend in bends)])

    def shifted(self, theta: Array, by: Array) -> Array:
        moved = theta.copy()
        moved[0] += theta[1] * by[0]
        return moved

    def named(self, theta: Array) -> Named:
        c, p = float(theta[0]), float(theta[1])
        inverse_ceiling = math.exp(theta[-1]) if self.ceiling else 0.0
        ceiling = 1.0 / inverse_ceiling if inverse_ceiling > NOTHING else None
        scale = c - math.log(ceiling) if ceiling else c
        found: Named = {"C0": _exp(scale / p) if p else None, "a": p}
        if self.ceiling:
            found["Lmax"] = ceiling
        if self.floor or not self.ceiling:
            floor = math.exp(theta[2]) if self.floor else 0.0
            found["E"] = floor if floor > NOTHING else 0.0
        return found

    def equation(self, theta: Array) -> str:
        text = {
            (False, False): "L(C) = (C / {C0})^-{a}",
            (True, False): "L(C) = (C / {C0})^-{a} + {E}",
            (False, True): "L(C) = {Lmax} / (1 + (C / {C0})^{a})",
            (True, True): "L(C) = {E} + ({Lmax} - {E}) / (1 + (C / {C0})^{a})",
        }[self.floor, self.ceiling and self.named(theta)["Lmax"] is not None]
        return text.format(**_shown(self.named(theta)))

    def _parts(self, theta: Array, x: Array) -> tuple[Array, Array, Array]:
        """ln of the line (..., points), and ln E and -ln Lmax broadcast against it."""
        line = theta[0][..., None] - theta[1][..., None] * x[0]
        nothing = np.full((1,), -np.inf)
        return line, theta[2][..., None] if self.floor else nothing, theta[-1][..., None] if self.ceiling else nothing


@dataclass(frozen=True)
class Chinchilla:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2 and 10). theta = (a, alpha, b, beta, e),
    a = ln A, b = ln B, e = ln E; the sum is a log-sum-exp."""

    name: str = "chinchilla"
    inputs: tuple[str, ...] = ("params", "tokens")
    n_parameters: int = 5

    def log_loss(self, theta: Array, x: Array) -> Array:
        return np.asarray(np.logaddexp.reduce(self._terms(theta, x), axis=0))

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        terms = self._terms(theta, x)
        total = np.logaddexp.reduce(terms, axis=0)
        share = np.exp(terms - total)
        return total, np.stack([share[0], -share[0] * x[0], share[1], -share[1] * x[1], share[2]])

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """For each pair of exponents the best coefficients, by non-negative least squares."""
        loss = np.exp(y)
        scale = np.sqrt(weights) / loss
        found = []
        for alpha in (0.1, 0.25, 0.4, 0.6, 0.9):
            for beta in (0.1, 0.25, 0.4, 0.6, 0.9):
                columns = np.stack([np.exp(-alpha * x[0]), np.exp(-beta * x[1]), np.ones_like(loss)], axis=1)
                a, b, e = np.log(np.maximum(nnls(columns * scale[:, None], loss * scale)[0], 1e-3 * loss.min()))
                found.append(np.array([a, alpha, b, beta, e]))
        return found

    def shifted(self, theta: Array, by: Array) -> Array:
        moved = theta.copy()
        moved[0] += theta[1] * by[0]
        moved[2] += theta[3] * by[1]
        return moved

    def named(self, theta: Array) -> Named:
        floor = math.exp(theta[4])
        return {
            "E": floor if floor > NOTHING else 0.0,
            "A": _exp(float(theta[0])),
            "B": _exp(float(theta[2])),
            "alpha": float(theta[1]),
            "beta": float(theta[3]),
        }

    def equation(self, theta: Array) -> str:
        return "L(N, D) = {E} + {A} / N^{alpha} + {B} / D^{beta}".format(**_shown(self.named(theta)))

    def _terms(self, theta: Array, x: Array) -> Array:
        """(terms, ..., points)"""
        a, alpha, b, beta, e = (part[..., None] for part in theta)
        first = a - alpha * x[0]
        return np.stack([first, b - beta * x[1], np.broadcast_to(e, first.shape)])


def _exp(x: float) -> float | None:
    return math.exp(x) if x < 700 else None


def _shown(named: Named) -> dict[str, str]:
    return {name: "inf" if value is None else f"{value:.4g}" for name, value in named.items()}


COMPUTE_FORMS = (
    ComputeForm("compute", floor=True, ceiling=False),
    ComputeForm("power", floor=False, ceiling=False),
    ComputeForm("bent", floor=False, ceiling=True),
    ComputeForm("sigmoid", floor=True, ceiling=True),
)
FORMS: dict[str, Form] = {form.name: form for form in (*COMPUTE_FORMS, Chinchilla())}
