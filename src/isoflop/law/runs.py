"""Points as arrays, grouped the ways a law needs: by training run, by size, and by rung of compute."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.law.forms import Array, Form
from isoflop.law.points import Point, budget_of

Index = NDArray[np.intp]
MAX_RUNGS = 8
# A run weighs by this power of its compute (half as much where it took an eighth), or by a lower one where the runs
# would then count for fewer than so many a parameter. Higher ones foretell held-out runs of public sets nearer still,
# but with intervals that hold too few of one of them (docs/laws.md).
NEARER = 1.0 / 3.0
RUNS_EACH = 4.0


@dataclass(frozen=True)
class Runs:
    """Columns over points. flops, params, tokens and y (the loss) are natural logarithms.

    `share` is 1 / points of the same run: a run counts once, however many of its checkpoints are given. `noise` is the
    relative run-to-run noise, NaN where unknown.
    """

    flops: Array
    params: Array
    tokens: Array
    y: Array
    share: Array
    noise: Array
    run: tuple[str, ...]

    def x(self, form: Form) -> Array:
        """(inputs of the form, points)"""
        return np.stack([getattr(self, name) for name in form.inputs])

    def take(self, rows: Iterable[int]) -> "Runs":
        index = np.fromiter(rows, dtype=np.intp)
        columns = {name: getattr(self, name)[index] for name in ("flops", "params", "tokens", "y", "share", "noise")}
        return Runs(**columns, run=tuple(self.run[i] for i in index))

    def __len__(self) -> int:
        return len(self.y)


def runs_of(points: Sequence[Point]) -> Runs:
    """The columns of these points. A training run has one size: of several under one name each is a run of its own."""
    sizes = sizes_under_a_name(points)
    names = [f"{p.run} of {p.params:.6g}" if len(sizes[p.run]) > 1 else p.run for p in points]
    count = {name: names.count(name) for name in set(names)}
    return Runs(
        flops=np.log([point.flops for point in points]),
        params=np.log([point.params for point in points]),
        tokens=np.log([point.tokens for point in points]),
        y=np.log([point.loss for point in points]),
        share=np.array([1.0 / count[name] for name in names]),
        noise=np.array([point.noise / point.loss if point.noise is not None else np.nan for point in points]),
        run=tuple(names),
    )


def sizes_under_a_name(points: Sequence[Point]) -> dict[str, set[float]]:
    """The params of the points of each run"""
    found: dict[str, set[float]] = {}
    for point in points:
        found.setdefault(point.run, set()).add(point.params)
    return found


@dataclass(frozen=True)
class Sizes:
    """Runs of one size and budget reduced to what a Gaussian likelihood needs; columns over sizes.

    `mean` of the log losses, `weight` their number (of whole runs), `spread` their summed squares about the mean,
    `freedom` the degrees of freedom in it.
    """

    flops: Array
    mean: Array
    weight: Array
    spread: Array
    freedom: Array
    noise: Array


def sizes_of(runs: Runs) -> Sizes:
    _, index = np.unique(np.stack([runs.flops, runs.params, runs.tokens]), axis=1, return_inverse=True)
    index = index.ravel()
    count = np.bincount(index)
    weight = np.asarray(np.bincount(index, runs.share), dtype=np.float64)
    mean = np.bincount(index, runs.share * runs.y) / weight
    return Sizes(
        flops=np.bincount(index, runs.flops) / count,
        mean=mean,
        weight=weight,
        spread=np.asarray(np.bincount(index, runs.share * (runs.y - mean[index]) ** 2), dtype=np.float64),
        freedom=np.maximum(weight - 1.0, 0.0),
        noise=np.sqrt(np.bincount(index, runs.noise**2) / count),
    )


def nearness(runs: Runs, n_parameters: int) -> Array:
    """(points): what each counts for in a form of so many parameters that is to foretell larger runs; their sum is how
    many equal runs they are worth (Kish 1965: the squared sum of weights over the sum of their squares).

    No form is exactly right over decades of compute. Fitted to all runs alike, it is as wrong at the largest, from
    which it is followed, as at the smallest, which are many and cheap.
    """
    for power in np.linspace(NEARER, 0.0, 9):
        weight = runs.share * np.exp(power * (runs.flops - runs.flops.max()))
        worth = float(weight.sum() ** 2 / (weight**2 / runs.share).sum())
        if worth >= RUNS_EACH * n_parameters:
            return np.asarray(weight * (worth / weight.sum()))
    return runs.share


def rungs_of(runs: Runs) -> list[Index]:
    """Row numbers by rising compute: one rung a budget, at most eight of about equal numbers of points."""
    order = np.argsort(runs.flops, kind="stable")
    steps = np.flatnonzero(np.diff(np.array(budget_of(list(runs.flops)))[order])) + 1
    if len(steps) >= MAX_RUNGS:
        even = np.linspace(0, len(order), MAX_RUNGS + 1)[1:-1]
        steps = np.unique(steps[np.abs(steps[None] - even[:, None]).argmin(axis=1)])
    return np.split(order, steps)


def collinear(runs: Runs) -> bool:
    """Whether tokens follow from params (to 20 %), so that their effects cannot be told apart."""
    if np.ptp(runs.params) < 1e-6:
        return True
    line = np.polyfit(runs.params, runs.tokens, 1)
    return float(np.std(runs.tokens - np.polyval(line, runs.params))) < 0.2
