"""The loss along a run under any learning-rate schedule."""

from dataclasses import dataclass

import numpy as np

from isoflop.law.forms import Array

# Steps whose losses are computed together: (steps, changes of rate) numbers at a time.
AT_ONCE = 2_000_000


@dataclass(frozen=True)
class MultiPowerLaw:
    """L(t) = L0 + A S(t)^-alpha - B sum_k (rate[k-1] - rate[k]) (1 - (1 + C rate[k]^-gamma (S(t) - S(k-1)))^-beta),
    where S is the sum of the rate up to a step (Luo et al. 2025, arXiv 2503.12811, eq. 5 and 6).

    The sum runs over every change of the rate, the rise of the warm-up with them: they count against the drops, and
    leaving them out shifts the loss by B times the peak.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def loss(self, rate: Array, steps: Array) -> Array:
        """Loss (nats/token) after each of `steps`, for the learning rate (steps of the run, from 0) of the whole
        run."""
        total = np.cumsum(rate)
        change = np.flatnonzero(np.diff(rate)) + 1
        drop, scale = rate[change - 1] - rate[change], self.C * rate[change] ** -self.gamma
        before = total[change - 1]
        gained = []
        for some in np.array_split(steps, max(1, len(steps) * len(change) // AT_ONCE)):
            since = np.maximum(total[some][:, None] - before, 0.0)
            gained.append(-np.expm1(-self.beta * np.log1p(scale * since)) @ drop)
        return np.asarray(self.L0 + self.A * total[steps] ** -self.alpha - self.B * np.concatenate(gained))
