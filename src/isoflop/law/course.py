"""How a run's losses lie off what was expected of them: their level, and jumps of it, in standard deviations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.law.forms import Array

Index = NDArray[np.intp]
# Before this share of its tokens a run leaves its initialisation, in steps of its own rather than in shares.
WATCHED_FROM = 0.05
# The scatter of steps and the pace of curves are taken to be alike within each of these shares of a run.
PARTS = np.array([0.0, 0.1, 0.2, 0.4, 0.7, 1.0])
# The level is the mean over this share of the steps so far, and no fewer than these.
LEVEL_SHARE, LEVEL_STEPS = 0.1, 8
# A jump is the mean over the last steps, these shares of the whole run or the fewest that say anything, less that of so
# many times as many steps before them.
JUMP_SHARES, JUMP_STEPS, JUMP_BASE = (0.0, 0.01, 0.03, 0.1), 4, 3


@dataclass(frozen=True)
class Expected:
    """What a run's curve should be, over `knots` (logs of the share of its tokens): mean log loss, and its spread from
    run to run.

    `final` is the log of the held-out loss at the end. `shared` is its covariance with a deviation at a knot,
    `final_variance` its variance before one is seen, known as from `final_freedom` degrees. `scatter` (parts) is the
    standard deviation of a step's log loss times the root of its tokens.
    """

    knots: Array
    mean: Array
    spread: Array
    final: float
    shared: Array
    final_variance: Array
    final_freedom: Array
    scatter: Array

    def at(self, name: str, progress: Array) -> Array:
        """One of the curves at shares of the run."""
        return np.asarray(np.interp(np.log(progress), self.knots, getattr(self, name)))


@dataclass(frozen=True)
class Jump:
    """By step: how far the mean deviation moved, NaN where there are too few steps; the standard deviation that the
    scatter of steps alone gives that; and over how many steps."""

    moved: Array
    noise: Array
    steps: Index


class Course:
    """A run's deviations (log loss less the expected), step after step; arrays grow as the run goes on."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self._progress, self._step_tokens, self._total = np.zeros(0), np.zeros(0), np.zeros(1)
        self.steps = 0
        self.first = 0  # step from which the run is watched

    def append(self, progress: Array, loss: Array, step_tokens: Array) -> None:
        """Further steps: share of the tokens read, loss (nats/token), tokens of each step."""
        n, more = self.steps, len(loss)
        if n + more > len(self._progress):
            grown = max(2 * n, n + more, 1024)
            self._progress, self._step_tokens = np.resize(self._progress, grown), np.resize(self._step_tokens, grown)
            self._total = np.resize(self._total, grown + 1)
        off = np.log(loss) - self.expected.at("mean", progress)
        self._progress[n : n + more], self._step_tokens[n : n + more] = progress, step_tokens
        self._total[n + 1 : n + more + 1] = self._total[n] + np.cumsum(off)
        self.first += int(np.count_nonzero(progress < WATCHED_FROM))
        self.steps += more

    def level(self, ends: Index) -> tuple[Array, Array]:
        """After so many steps: the mean deviation over the last tenth of them, and its standard deviation."""
        span = np.minimum(np.maximum(LEVEL_STEPS, (LEVEL_SHARE * ends).astype(int)), ends)
        mean = (self._total[ends] - self._total[ends - span]) / span
        progress = self._progress[ends - 1]
        return mean, np.sqrt(self.expected.at("spread", progress) ** 2 + self._noise(ends) ** 2 / span)

    def jump(self, share: float, ends: Index) -> "Jump":
        """After so many steps: how the mean deviation moved over the last `share` of the run's steps."""
        length = ends / self._progress[ends - 1]
        k = np.maximum(JUMP_STEPS, np.rint(share * length).astype(int))
        base = JUMP_BASE * k
        enough = ends >= self.first + k + base
        middle, start = np.maximum(ends - k, 0), np.maximum(ends - k - base, 0)
        last, before = self._total[ends] - self._total[middle], self._total[middle] - self._total[start]
        moved = np.where(enough, last / k - before / base, np.nan)
        return Jump(moved, self._noise(ends) * np.sqrt(1 / k + 1 / base), k)

    def part(self, ends: Index) -> Index:
        return part_of(self._progress[ends - 1])

    def progress(self, ends: Index) -> Array:
        return self._progress[ends - 1]

    def _noise(self, ends: Index) -> Array:
        return np.asarray(self.expected.scatter[self.part(ends)] / np.sqrt(self._step_tokens[ends - 1]))


def part_of(progress: Array) -> Index:
    """Which of PARTS each share lies in"""
    return np.clip(np.searchsorted(PARTS, progress) - 1, 0, len(PARTS) - 2)
