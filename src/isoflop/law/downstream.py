"""Accuracy on a task: by way of the loss on its right answers, and straight from compute, as each has foretold.

Both end in a sigmoid between chance and a ceiling (Bhagia et al. 2024, arXiv 2412.04403, eq. 3). In two steps, a law of
the task's loss in size and tokens is read first, and what it does not know carries over. Neither is better everywhere:
chained errors add up where the loss is hard to foretell, and accuracy against compute bends where tokens per parameter
change. So the largest runs are held out, and each way weighs as much as it foretold them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp, ndtri

from isoflop.errors import InputError
from isoflop.law.forecast import LEVELS
from isoflop.law.forms import Array
from isoflop.law.intervals import mixture_quantiles, systematic
from isoflop.law.law import Law, fit_law
from isoflop.law.points import Point
from isoflop.law.sigmoid import Sigmoid, SigmoidDraws, sigmoid_draws

LEAST_RUNS = 5
TWO_STEP, DIRECT = "two-step", "direct"
DRAWS = 256
# The largest runs are foretold from these shares of the runs below them.
ORIGINS = (0.5, 0.75)
LEAST_SEEN = 4
# How far accuracy strays from a sigmoid for every factor e of compute beyond the runs. Before any is foretold: 1 %,
# within a factor of e.
DRIFT = np.geomspace(1e-3, 0.1, 13)
DRIFT_PRIOR = (1e-2, 1.0)


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
    """The accuracy that one new run would measure: its median, and intervals that hold it with 80 and 95 %, kept
    between the sigmoid's lower end and one."""

    accuracy: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Way:
    """One of the two ways: `loss_law` is None where accuracy follows straight from compute. `weight` is its share in
    what is foretold, `error` the root mean square error on held-out runs (None where none could be foretold), `drift`
    (draws) how far accuracy strays for every factor e of compute beyond the runs."""

    kind: str
    sigmoids: SigmoidDraws
    loss_law: Law | None
    log_flops: Array
    weight: float
    error: float | None
    drift: Array

    def mixture(self, params: float, tokens: float, flops: float) -> tuple[Array, Array, float]:
        """Accuracy under every draw, a run's noise in each (draws), and the distance in compute from the runs."""
        n = len(self.sigmoids.noise)
        if self.loss_law is None:
            z = np.full((n, 1), -np.log(flops))
        else:
            z = _drawn(self.loss_law, params, tokens, flops, n)[:, None]
        away = float(np.abs(self.log_flops - np.log(flops)).min())
        return self.sigmoids.at(z)[:, 0], self.sigmoids.noise, away


@dataclass(frozen=True)
class DownstreamLaw:
    """What `fit_downstream` returns. `ways` lie in falling weight."""

    ways: tuple[Way, ...]

    @property
    def kind(self) -> str:
        """The way that foretold the held-out runs better."""
        return self.ways[0].kind

    @property
    def sigmoid(self) -> Sigmoid:
        """Of that way: accuracy against the task's loss ("two-step") or minus the natural log of FLOPs ("direct")."""
        return self.ways[0].sigmoids.best

    @property
    def loss_law(self) -> Law | None:
        """Of the task's loss, where that way goes by it."""
        return self.ways[0].loss_law

    @property
    def errors(self) -> dict[str, float | None]:
        """Root mean square errors on held-out runs, by kind."""
        return {way.kind: way.error for way in self.ways}

    def predict(self, params: float, tokens: float, flops: float) -> Accuracy:
        """The accuracy of one new run.

        Raises:
            InputError: a number is not finite and above 0.
        """
        for name, value in (("params", params), ("tokens", tokens), ("flops", flops)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"prediction for {name} = {value}: give a finite number above 0")
        found = [(way, *way.mixture(params, tokens, flops)) for way in self.ways]
        mean = np.concatenate([middle for _, middle, _, _ in found])[:, None]
        sd = np.concatenate([np.hypot(noise, way.drift * away) for way, _, noise, away in found])[:, None]
        weight = np.concatenate([np.full(len(middle), way.weight / len(middle)) for way, middle, _, _ in found])
        ends = np.clip(mixture_quantiles(mean, sd, weight, LEVELS)[:, 0], self.sigmoid.chance, 1.0)
        low_95, low_80, middle, high_80, high_95 = (float(end) for end in ends)
        return Accuracy(middle, low_80, high_80, low_95, high_95)


def fit_downstream(points: Sequence[TaskPoint], chance: float, seed: int = 0) -> DownstreamLaw:
    """The law of one task, from runs of growing compute; `chance` is the accuracy of guessing. The same points and seed
    give the same law.

    Raises:
        InputError: fewer than 5 runs or 3 budgets, an accuracy outside 0 to 1, another number that is not finite and
            above 0, or a chance that is not below 1.
    """
    _check(points, chance)
    rng = np.random.default_rng(seed)
    points = sorted(points, key=lambda point: (point.flops, point.params, point.run))
    kinds = [DIRECT] if any(point.task_loss is None for point in points) else [TWO_STEP, DIRECT]
    ways = {kind: way for kind in kinds if (way := _fit(points, kind, chance, rng)) is not None}
    belief, errors = _foretold(points, list(ways), chance, rng)
    total = logsumexp(belief)
    found = []
    for (kind, way), row in zip(ways.items(), belief, strict=True):
        drift = DRIFT[systematic(np.exp(row - row.max()), DRAWS, rng)]
        weight = float(np.exp(logsumexp(row) - total))
        found.append(replace(way, weight=weight, error=errors.get(kind), drift=drift))
    return DownstreamLaw(tuple(sorted(found, key=lambda way: -way.weight)))


def _check(points: Sequence[TaskPoint], chance: float) -> None:
    if not 0 <= chance < 1:
        raise InputError(f"chance = {chance}: give the accuracy of guessing, from 0 to below 1")
    for point in points:
        if not 0 <= point.accuracy <= 1:
            raise InputError(f"{point.run}: accuracy = {point.accuracy}; give a share from 0 to 1, not per cent")
        for name in ("params", "tokens", "flops", "task_loss"):
            value = getattr(point, name)
            if not (value is None and name == "task_loss") and not (math.isfinite(value) and value > 0):
                raise InputError(f"{point.run}: {name} = {value}; give a finite number above 0")
    if len(points) < LEAST_RUNS:
        raise InputError(f"{len(points)} runs; a law of accuracy needs {LEAST_RUNS} or more")
    budgets = len({point.flops for point in points})
    if budgets < 3:
        raise InputError(f"{budgets} distinct flops; a law of accuracy needs 3 or more: add runs of other budgets")


def _foretold(
    points: Sequence[TaskPoint], kinds: Sequence[str], chance: float, rng: np.random.Generator
) -> tuple[Array, dict[str, float]]:
    """Log belief (kinds, drifts), not normalised, and each kind's error, from foretelling the largest runs."""
    prior = -0.5 * (np.log(DRIFT / DRIFT_PRIOR[0]) / DRIFT_PRIOR[1]) ** 2
    belief = np.tile(prior, (len(kinds), 1))
    off: dict[str, list[float]] = {kind: [] for kind in kinds}
    for cut in sorted({max(LEAST_SEEN, int(share * len(points))) for share in ORIGINS}):
        seen, held = points[:cut], points[cut:]
        ways = [_fit(seen, kind, chance, rng) for kind in kinds]
        # A way that cannot be tried is not to win by it.
        if not held or any(way is None for way in ways):
            continue
        for row, way in enumerate(ways):
            assert way is not None
            scores = []
            for point in held:
                mean, noise, away = way.mixture(point.params, point.tokens, point.flops)
                sd = np.hypot(noise, DRIFT[:, None] * away)
                density = -0.5 * ((point.accuracy - mean) / sd) ** 2 - np.log(sd)
                scores.append(logsumexp(density, axis=1) - np.log(len(mean)))
                off[way.kind].append(point.accuracy - float(np.median(mean)))
            # The held-out runs share the way's error: however many, they count as one test.
            belief[row] += np.mean(scores, axis=0)
    return belief, {kind: float(np.sqrt(np.mean(np.square(some)))) for kind, some in off.items() if some}


def _fit(points: Sequence[TaskPoint], kind: str, chance: float, rng: np.random.Generator) -> Way | None:
    """One way fitted to runs of rising compute, its weight and drift still open; None where they carry no law."""
    accuracy = np.array([point.accuracy for point in points])
    log_flops = np.log([point.flops for point in points])
    law = None
    z = -log_flops
    if kind == TWO_STEP:
        z = np.array([point.task_loss or math.nan for point in points])
        try:
            law = fit_law([Point(p.params, p.tokens, float(x), p.flops, p.run) for p, x in zip(points, z, strict=True)])
        except InputError:
            return None
    return Way(kind, sigmoid_draws(z, accuracy, chance, rng, DRAWS), law, log_flops, 1.0, None, np.zeros(DRAWS))


def _drawn(law: Law, params: float, tokens: float, flops: float, n: int) -> Array:
    """n equally likely losses of a new run, in an order of their own; between the law's quantiles, and on beyond them,
    the log loss follows the normal score."""
    said = law.predict(params, tokens, flops)
    at = ndtri(np.array(LEVELS))
    logs = np.log([said.low_95, said.low_80, said.loss, said.high_80, said.high_95])
    beyond = 4.0
    low, high = (
        logs[i] + (end - at[i]) * (logs[j] - logs[i]) / (at[j] - at[i])
        for i, j, end in ((0, 1, -beyond), (-1, -2, beyond))
    )
    score = ndtri((np.arange(n) + 0.5) / n)
    order = np.random.default_rng(n).permutation(n)
    return np.asarray(np.exp(np.interp(score, [-beyond, *at, beyond], [low, *logs, high]))[order])
