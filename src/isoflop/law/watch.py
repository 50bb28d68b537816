"""Is a run on its track? Where it stands beside what finished runs lead to expect, and when it leaves that."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from isoflop.law.course import JUMP_SHARES, WATCHED_FROM, Course
from isoflop.law.forms import Array
from isoflop.law.track import Track

# Steps from one look at the run to the next.
LOOK_EVERY = 4
# An alarm is over when deviations are below this part of their limits.
QUIET = 0.5


@dataclass(frozen=True)
class Standing:
    """Where a run stands after `step` steps. Losses are nats/token, `loss` a mean over the last tenth of the steps.

    `deviation` is what lies between it and the expected, in standard deviations of healthy runs; `low` and `high` are
    the band, beyond which it is off its track. `final` is the held-out loss foretold for its end, with the intervals
    that hold it with 80 and 95 %.
    """

    step: int
    progress: float
    loss: float
    expected: float
    low: float
    high: float
    deviation: float
    final: float
    final_low_80: float
    final_high_80: float
    final_low_95: float
    final_high_95: float


@dataclass(frozen=True)
class Alarm:
    """A run leaves its track at `step`: "level" where it left its band, "jump" where it moved more suddenly over its
    last `steps` steps than healthy runs do; by `deviation` standard deviations, where `limit` are allowed."""

    step: int
    kind: str
    steps: int
    deviation: float
    limit: float
    loss: float
    expected: float


class Watch:
    """Follows one run beside the track of the others."""

    def __init__(self, track: Track, run: str, params: float, rate: Array) -> None:
        self._limits = track.limits
        self._expected = track.expected(run, params, rate)
        self._course = Course(self._expected)
        self._off_track = False

    @property
    def off_track(self) -> bool:
        return self._off_track

    @property
    def steps(self) -> int:
        return self._course.steps

    def see(self, progress: float, loss: float, step_tokens: float) -> Alarm | None:
        """One more step; every fourth is judged. An alarm if it leads off the track, none while it stays off."""
        self._course.append(np.array([progress]), np.array([loss]), np.array([step_tokens]))
        n = self._course.steps
        if progress < WATCHED_FROM or n % LOOK_EVERY:
            return None
        ends = np.array([n])
        level, sd = self._course.level(ends)
        wander = self._limits.wander[:, self._course.part(ends)[0]]
        jumps = [self._course.jump(share, ends) for share in JUMP_SHARES]
        steps = [0, *(int(jump.steps[0]) for jump in jumps)]
        moved = [jump.moved[0] / np.hypot(jump.noise[0], own) for jump, own in zip(jumps, wander, strict=True)]
        deviation = np.nan_to_num(np.array([level[0] / sd[0], *moved]))
        limit = np.array([self._limits.level, *self._limits.jump])
        over = np.abs(deviation) / limit
        was, self._off_track = self._off_track, bool(over.max() > (QUIET if self._off_track else 1.0))
        if was or not self._off_track:
            return None
        which, standing = int(over.argmax()), self.standing()
        kind = "jump" if which else "level"
        return Alarm(
            n, kind, steps[which], float(deviation[which]), float(limit[which]), standing.loss, standing.expected
        )

    def follow(self, progress: Array, loss: Array, step_tokens: Array) -> None:
        """Further steps at once, none of them judged: for `standing` alone."""
        self._course.append(progress, loss, step_tokens)

    def band(self, progress: Array) -> tuple[Array, Array, Array]:
        """At shares of the run: the least loss of a healthy run, the expected, and the largest, in nats/token."""
        mean, spread = self._expected.at("mean", progress), self._expected.at("spread", progress)
        reach = self._limits.level * spread
        return np.exp(mean - reach), np.exp(mean), np.exp(mean + reach)

    def standing(self) -> Standing:
        """Where it stands after the last step seen, of which there must be one."""
        n, expected = np.array([self._course.steps]), self._expected
        progress = self._course.progress(n)
        off, sd = (float(one[0]) for one in self._course.level(n))
        mean, shared, before, freedom = (
            float(expected.at(name, progress)[0]) for name in ("mean", "shared", "final_variance", "final_freedom")
        )
        reach = self._limits.level * sd
        # The end given the deviation so far, both Gaussian.
        middle = expected.final + shared / sd**2 * off
        left = np.sqrt(before - shared**2 / sd**2)
        low_80, high_80, low_95, high_95 = (
            float(np.exp(middle + side * stdtrit(freedom, 0.5 + share / 2) * left))
            for share in (0.8, 0.95)
            for side in (-1, 1)
        )
        return Standing(
            step=int(n[0]),
            progress=float(progress[0]),
            loss=float(np.exp(mean + off)),
            expected=float(np.exp(mean)),
            low=float(np.exp(mean - reach)),
            high=float(np.exp(mean + reach)),
            deviation=off / sd,
            final=float(np.exp(middle)),
            final_low_80=low_80,
            final_high_80=high_80,
            final_low_95=low_95,
            final_high_95=high_95,
        )
