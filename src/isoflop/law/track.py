"""The whole loss curve of a family's runs, across their sizes, and how far healthy runs stray from it.

Runs of one family fall on one curve of loss against the share of their tokens, which moves smoothly with their size
("Scaling with Collapse", arXiv 2509.25087). Finished runs tell that curve at every share: a straight line in log loss
and log size, smoothed along the run. Where a run's schedule is another, the multi-power law (`schedule.py`), fitted to
the same runs, says by how much its curve differs. How far a healthy run lies off, how much a step's loss scatters and
how suddenly a curve moves are taken from the finished runs themselves, each foretold from the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtrit

from isoflop.errors import InputError
from isoflop.law.course import JUMP_SHARES, PARTS, WATCHED_FROM, Course, Expected, part_of
from isoflop.law.forms import Array
from isoflop.law.schedule import schedule_effect

# A line over sizes and what runs lie off it: with fewer runs the band would be a guess.
LEAST_RUNS, LEAST_STEPS = 6, 50
SHARES = np.geomspace(0.02, 1.0, 60)
KNOTS = np.log(SHARES)
# Width of the smoothing kernel, in the log of the share and, where steps are far apart, in steps.
KERNEL, KERNEL_STEPS = 0.06, 2.0
# Knots whose residuals are taken together: those of one knot are few.
NEIGHBOURS = 11
# Moves from which it can be told how far healthy curves move.
LEAST_MOVES = 50
# Degrees of freedom with which an interval says anything.
LEAST_FREEDOM = 2
# Of the loss, per factor e of size beyond those that finished: what a law strays before anything is known of it.
DRIFT = 0.005
# Of what another schedule, or the ceiling, is said to change, the part that may be wrong.
DOUBT = 0.5
# A band is left by a healthy run with this probability, if its deviations are as Student's.
MISS = 1e-3
# An alarm is beyond so many standard deviations, and beyond what any finished run did by a margin that is the wider the
# fewer they were: a new run goes beyond the farthest of n others by chance once in n + 1 times.
JUMP_LIMIT, MARGIN = 6.0, 3.0


@dataclass(frozen=True)
class Record:
    """A run; arrays over the steps it made.

    `progress` is the share of the run's tokens read, `loss` in nats/token, `step_tokens` what each step read. `rate` is
    the planned learning rate over its peak, for the whole run at evenly spaced shares. `final` is the held-out loss of
    a finished run, None while it trains.
    """

    run: str
    params: float
    progress: Array
    loss: Array
    step_tokens: Array
    rate: Array
    final: float | None = None


@dataclass(frozen=True)
class Limits:
    """`wander` (jumps, parts): standard deviation of what a healthy curve moves beside the scatter of its steps,
    infinite where it is not known. `jump` (jumps) and `level`: the deviations beyond which a run is off its track."""

    wander: Array
    jump: Array
    level: float


class Track:
    """What finished runs of a family say of the loss curve of another.

    `ceiling` is the loss (nats/token) without any training, where it is known: towards it losses of tiny models
    saturate.

    Raises:
        InputError: fewer than 6 finished runs.
    """

    def __init__(self, records: Sequence[Record], ceiling: float | None = None) -> None:
        done = [one for one in records if one.final is not None and len(one.loss) >= LEAST_STEPS]
        if len(done) < LEAST_RUNS:
            raise InputError(f"{len(done)} finished runs; to expect another's curve takes {LEAST_RUNS} or more")
        self.finished = done
        self._size = np.log([record.params for record in done])
        self._curves = np.stack([_smooth(record) for record in done])
        self._ceiling = ceiling
        self._final = np.log(np.array([record.final for record in done], dtype=float))
        self._scatter = np.median([_scatter(run, curve) for run, curve in zip(done, self._curves, strict=True)], axis=0)

    def expected(self, run: str, params: float, rate: Array) -> Expected:
        """The curve of a run of that size and schedule; of a finished one, as the others foretell it.

        Raises:
            InputError: the others are all of one size, and it is of another.
        """
        others = np.array([one.run != run for one in self.finished])
        size, curves = self._size[others], self._curves[others]
        wanted = float(np.log(params))
        line = _Line(size, wanted, _bend(size, self._final[others], self._ceiling))
        straight = _Line(size, wanted)
        if np.ptp(size) < 1e-6 and not np.isclose(size[0], np.log(params)):
            raise InputError("all finished runs are of one size; to expect another size's curve takes two or more")
        # Brought to one size, the curves differ by their schedules.
        alike = curves - line.fitted(curves.mean(axis=1))[:, None]
        rates = [one.rate for one, other in zip(self.finished, others, strict=True) if other]
        effect = schedule_effect(rates, alike, SHARES, rate)
        doubt = DOUBT * np.abs(effect).mean(axis=0)
        curves, ends = curves + effect, self._final[others] + effect[:, -1]
        strays, end_strays = curves - line.fitted(curves), ends - line.fitted(ends)
        together, squares = _along(end_strays @ strays), _along((strays**2).sum(axis=0))
        kept = np.clip(together / np.maximum(squares, 1e-300), 0.0, 1.0)
        left = _along(((end_strays[:, None] - kept * strays) ** 2).sum(axis=0))
        own, left = (part * line.leverage / line.freedom for part in (squares, left))
        beyond = _along(line.beyond(curves) ** 2)
        # What the runs' own scatter leaves open of the end, known from few of them, and what is doubted beforehand.
        end_open = left + float(line.beyond(ends)) ** 2
        end_doubt = doubt[-1] ** 2 + float(DOUBT * (line.at(ends) - straight.at(ends))) ** 2
        doubt = np.hypot(doubt, DOUBT * (line.at(curves) - straight.at(curves)))
        return Expected(
            knots=KNOTS,
            mean=line.at(curves),
            spread=np.sqrt(own + beyond + doubt**2),
            final=float(line.at(ends)),
            # A run's own deviation goes on as far as it did in the finished ones. What the line over sizes is wrong by
            # does not: larger models lie above it half way and below it at their end.
            shared=kept * own,
            final_variance=kept**2 * own + end_open + end_doubt,
            # Welch and Satterthwaite's, for a sum of which only one part is estimated.
            final_freedom=line.sizes_freedom * (1.0 + end_doubt / np.maximum(end_open, 1e-300)) ** 2,
            scatter=self._scatter,
        )

    @cached_property
    def limits(self) -> Limits:
        """From each finished run, as the others foretell it."""
        moved, noise = [], []
        parts, levels = [], [0.0]
        for record in self.finished:
            course = Course(self.expected(record.run, record.params, record.rate))
            course.append(record.progress, record.loss, record.step_tokens)
            ends = np.arange(1, course.steps + 1)
            jumps = [course.jump(share, ends) for share in JUMP_SHARES]
            moved.append(np.stack([jump.moved for jump in jumps]))
            noise.append(np.stack([jump.noise for jump in jumps]))
            parts.append(course.part(ends))
            level, sd = course.level(ends)
            levels.append(float(np.abs(level / sd)[record.progress >= WATCHED_FROM].max()))
        moves, alone, part = (np.concatenate(all_, axis=-1) for all_ in (moved, noise, parts))
        wander = np.full((len(JUMP_SHARES), len(PARTS) - 1), np.inf)
        excess = moves**2 - alone**2
        for j, i in np.ndindex(wander.shape):
            here = excess[j, (part == i) & np.isfinite(moves[j])]
            if len(here) >= LEAST_MOVES:
                wander[j, i] = np.sqrt(max(0.0, float(here.mean())))
        z = np.abs(np.nan_to_num(moves)) / np.sqrt(alone**2 + wander[:, part] ** 2)
        margin = 1.0 + MARGIN / len(self.finished)
        freedom = len(self.finished) - min(2, len(np.unique(self._size)))
        level_limit = max(float(stdtrit(freedom, 1 - MISS / 2)), margin * max(levels))
        return Limits(wander, np.maximum(JUMP_LIMIT, margin * z.max(axis=1)), level_limit)


class _Line:
    """A line over log size, straight or as `bend` bends it, through what runs of some sizes measured, and to the size
    of another."""

    def __init__(self, size: Array, wanted: float, bend: Callable[[Array], Array] = np.asarray) -> None:
        self._size, self._wanted, self._bend = size, wanted, bend
        self._sizes = np.unique(size)
        self._fitted, self._at = self._solve(size, size), self._solve(size, np.array([wanted]))[0]
        self.freedom = len(size) - min(2, len(self._sizes))
        # Seeds of a size share what the size lies off the line: a new size is foretold from sizes, not from runs.
        known = bool(np.isclose(wanted, self._sizes).any())
        self.sizes_freedom = self.freedom if known else max(LEAST_FREEDOM, len(self._sizes) - 2)
        self.leverage = 1.0 + float((self._solve(self._sizes, np.array([wanted])) ** 2).sum())

    def fitted(self, values: Array) -> Array:
        """values: (runs) or (runs, knots)"""
        return np.asarray(self._fitted @ values)

    def at(self, values: Array) -> Array:
        """At the wanted size"""
        return np.asarray(self._at @ values)

    def beyond(self, values: Array) -> Array:
        """How far a line strays that is followed beyond its sizes: as far as, for the outermost size, the line through
        the others does, in proportion to the way; and no less than DRIFT."""
        largest = self._wanted > self._sizes[-1]
        edge = self._sizes[-1] if largest else self._sizes[0]
        way = max(0.0, self._wanted - edge if largest else edge - self._wanted)
        if not way or len(self._sizes) < 3:
            return np.asarray(DRIFT * way + np.zeros(values.shape[1:]))
        inner, outer = self._size != edge, self._size == edge
        step = abs(edge - self._sizes[-2 if largest else 1])
        error = self._solve(self._size[inner], np.array([edge]))[0] @ values[inner] - values[outer].mean(axis=0)
        return np.asarray(np.maximum(np.abs(error) * way / step, DRIFT * way))

    def _solve(self, size: Array, wanted: Array) -> Array:
        return _solve(self._bend(size), self._bend(wanted))


def _bend(size: Array, final: Array, ceiling: float | None) -> Callable[[Array], Array]:
    """Of log sizes, what log losses are straight in at every share of a run. Below a ceiling it is the shape of the
    ends, Lmax / (1 + (N / N0)^a), told from their log losses `final`; without one the log sizes themselves."""
    if ceiling is None or np.ptp(size) < 1e-6 or final.max() >= np.log(ceiling):
        return np.asarray
    slope, level = np.polyfit(size, np.log(np.expm1(np.log(ceiling) - final)), 1)
    if slope <= 0:
        return np.asarray
    return lambda x: np.asarray(np.logaddexp(0.0, level + slope * x) / slope)


def _solve(size: Array, wanted: Array) -> Array:
    """(wanted, runs): what a least-squares line makes of values at `size`; their mean where there is but one size"""
    columns = 2 if np.ptp(size) > 1e-6 else 1
    centre = size.mean()
    basis, points = (np.stack([np.ones(len(x)), x - centre], axis=1)[:, :columns] for x in (size, wanted))
    return np.asarray(points @ np.linalg.pinv(basis))


def _smooth(record: Record) -> Array:
    """(knots): log loss by straight lines in the log of the share, each over the steps around its knot"""
    x, y = np.log(record.progress), np.log(record.loss)
    found = []
    for knot in KNOTS:
        width = np.hypot(KERNEL, KERNEL_STEPS / (len(x) * np.exp(knot)))
        low, high = np.searchsorted(x, [knot - 4 * width, knot + 4 * width])
        low, high = max(0, min(int(low), len(x) - 4)), max(int(high), 4)
        z, here = (x[low:high] - knot) / width, y[low:high]
        weight = np.exp(-0.5 * z**2) + 1e-12
        middle = np.average(z, weights=weight)
        slope = (weight * (z - middle)) @ here / max(float((weight * (z - middle)) @ z), 1e-12)
        found.append(np.average(here, weights=weight) - slope * middle)
    return np.array(found)


def _along(values: Array) -> Array:
    """(knots): each with its neighbours' mean"""
    padded = np.pad(values, NEIGHBOURS // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(NEIGHBOURS) / NEIGHBOURS, "valid"))


def _scatter(record: Record, curve: Array) -> Array:
    """(parts): standard deviation of a step's log loss, times the root of the step's tokens; from the middle half of
    what neighbouring steps differ by: a spike is not scatter"""
    off = np.log(record.loss) - np.interp(np.log(record.progress), KNOTS, curve)
    differences = np.diff(off) * np.sqrt(record.step_tokens[1:] / 2)
    part = part_of(record.progress[1:])
    found = np.full(len(PARTS) - 1, np.nan)
    for i in range(len(found)):
        here = differences[part == i]
        if len(here) >= 10:
            found[i] = (np.quantile(here, 0.75) - np.quantile(here, 0.25)) / 1.349
    known = np.flatnonzero(np.isfinite(found))
    return np.asarray(np.maximum(np.interp(np.arange(len(found)), known, found[known]), 1e-9))
