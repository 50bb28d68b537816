"""Accuracy on a task: by way of the loss on its right answers, or straight from compute; whichever foretold better.

Both end in a sigmoid between chance and a ceiling (Bhagia et al. 2024, arXiv 2412.04403, eq. 3). In two steps, a law of
the task's loss in size and tokens is read first, and what it does not know carries over. Neither is better everywhere:
chained errors add up where the loss is hard to foretell, and accuracy against compute bends where tokens per parameter
change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from isoflop.errors import InputError
from isoflop.law.forms import Array
from isoflop.law.law import Law, fit_law
from isoflop.law.points import Point

LEAST_RUNS = 5
# How surely a ceiling is near one: the pull of a pseudo-observation, in the units of accuracy's residuals.
CEILING_PRIOR = 0.01
TWO_STEP, DIRECT = "two-step", "direct"
HALF_80, HALF_95 = 1.282, 1.960


@dataclass(frozen=True)
class TaskPoint:
    """One run on one task: its loss on the right answers (any unit, None if not measured), and its accuracy (0 to
    1)."""

    params: float
    tokens: float
    flops: float
    task_loss: float | None
    accuracy: float
    run: str


@dataclass(frozen=True)
class Accuracy:
    """A foretold accuracy and its intervals, kept between chance and one."""

    accuracy: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Sigmoid:
    """chance + (ceiling - chance) / (1 + exp(steepness (z - middle))): z falls as models grow."""

    chance: float
    ceiling: float
    middle: float
    steepness: float

    def at(self, z: Array) -> Array:
        return np.asarray(self.chance + (self.ceiling - self.chance) * expit(-self.steepness * (z - self.middle)))


@dataclass(frozen=True)
class DownstreamLaw:
    """`kind` is the way that foretold the held-out runs better; `errors` (root mean square) say by how much. `spread`
    is the standard deviation of what a new run's accuracy lies off the sigmoid, hold-out error included."""

    kind: str
    sigmoid: Sigmoid
    loss_law: Law | None
    errors: dict[str, float]
    spread: float

    def predict(self, params: float, tokens: float, flops: float) -> Accuracy:
        """The accuracy of one new run."""
        if self.loss_law is None:
            z = np.full(5, -np.log(flops))
        else:
            said = self.loss_law.predict(params, tokens, flops)
            z = np.array([said.high_95, said.high_80, said.loss, said.low_80, said.low_95])
        low_95, low_80, middle, high_80, high_95 = self.sigmoid.at(z)
        lower = [
            middle - np.hypot(middle - low, half * self.spread) for low, half in ((low_80, HALF_80), (low_95, HALF_95))
        ]
        upper = [
            middle + np.hypot(high - middle, half * self.spread)
            for high, half in ((high_80, HALF_80), (high_95, HALF_95))
        ]
        kept = [
            float(np.clip(end, self.sigmoid.chance, 1.0)) for end in (middle, lower[0], upper[0], lower[1], upper[1])
        ]
        return Accuracy(*kept)


def fit_downstream(points: Sequence[TaskPoint], chance: float) -> DownstreamLaw:
    """The law of one task, from runs of growing compute; `chance` is the accuracy of guessing.

    Raises:
        InputError: fewer than 5 runs, an accuracy outside 0 to 1, or a chance that is not below 1.
    """
    if not 0 <= chance < 1:
        raise InputError(f"chance = {chance}: give the accuracy of guessing, from 0 to below 1")
    for point in points:
        if not 0 <= point.accuracy <= 1:
            raise InputError(f"{point.run}: accuracy = {point.accuracy}; give a share from 0 to 1, not per cent")
    if len(points) < LEAST_RUNS:
        raise InputError(f"{len(points)} runs; a law of accuracy needs {LEAST_RUNS} or more")
    points = sorted(points, key=lambda point: point.flops)
    kinds = [DIRECT] if any(point.task_loss is None for point in points) else [TWO_STEP, DIRECT]
    errors = {kind: _held_out_error(points, kind, chance) for kind in kinds}
    kind = min(errors, key=lambda name: errors[name])
    sigmoid, loss_law, residual = _fit(points, kind, chance)
    return DownstreamLaw(kind, sigmoid, loss_law, errors, float(np.hypot(residual, errors[kind])))


def _held_out_error(points: Sequence[TaskPoint], kind: str, chance: float) -> float:
    """Root mean square error on the upper quarter of the runs by compute, foretold from those below."""
    n = max(1, len(points) // 4)
    seen, held = points[:-n], points[-n:]
    sigmoid, loss_law, _ = _fit(seen, kind, chance)
    if loss_law is None:
        z = -np.log([point.flops for point in held])
    else:
        z = np.array([loss_law.predict(point.params, point.tokens, point.flops).loss for point in held])
    off = sigmoid.at(z) - np.array([point.accuracy for point in held])
    return float(np.sqrt(np.mean(off**2)))


def _fit(points: Sequence[TaskPoint], kind: str, chance: float) -> tuple[Sigmoid, Law | None, float]:
    accuracy = np.array([point.accuracy for point in points])
    if kind == DIRECT:
        sigmoid, residual = _fit_sigmoid(-np.log([point.flops for point in points]), accuracy, chance)
        return sigmoid, None, residual
    losses = [point.task_loss or 0.0 for point in points]
    law = fit_law([Point(p.params, p.tokens, x, p.flops, p.run) for p, x in zip(points, losses, strict=True)])
    sigmoid, residual = _fit_sigmoid(np.array(losses), accuracy, chance)
    return sigmoid, law, residual


def _fit_sigmoid(z: Array, accuracy: Array, chance: float) -> tuple[Sigmoid, float]:
    """Least squares from several starts, the ceiling drawn a little towards one; and the residuals' deviation."""
    scale = float(np.std(z)) or 1.0

    def of(theta: Array) -> Sigmoid:
        ceiling = chance + (1 - chance) * float(expit(theta[2]))
        return Sigmoid(chance, ceiling, float(theta[0]), float(np.exp(theta[1])) / scale)

    def off(theta: Array) -> Array:
        return np.append(of(theta).at(z) - accuracy, CEILING_PRIOR * (theta[2] - logit(0.95)))

    starts = [
        np.array([np.quantile(z, level), np.log(steep), 3.0]) for level in (0.0, 0.5) for steep in (0.5, 1.0, 2.0)
    ]
    best = min((least_squares(off, start) for start in starts), key=lambda found: found.cost)
    residual = off(best.x)[:-1]
    return of(best.x), float(np.sqrt(residual @ residual / max(len(z) - 3, 1)))
