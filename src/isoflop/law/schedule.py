"""The loss along a run under any learning-rate schedule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from isoflop.law.forms import Array

# Steps whose losses are computed together: (steps, changes of rate) numbers at a time.
AT_ONCE = 2_000_000
# Of the run: a power of the summed rate does not describe how a model leaves its initialisation.
FITTED_FROM = 0.1
# Logs of alpha, C, beta, gamma at which the fit begins: Luo et al.'s, where a whole run is one unit.
FIRST_EXPONENTS = np.log([0.5, 50.0, 0.6, 0.6])
# Of the peak: warm-ups of whole steps end a little earlier or later from size to size.
SAME_RATE = 0.02
# Of the peak: a rate of 0 to a negative power is none.
LEAST_RATE = 1e-3


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

    def loss(self, rate: Array, steps: NDArray[np.integer[Any]]) -> Array:
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


def schedule_effect(rates: Sequence[Array], curves: Array, shares: Array, rate: Array) -> Array:
    """(runs, shares): what another learning rate would add to the log losses `curves` (runs, shares) of runs that were
    trained with `rates`. Exactly 0 for a run that was trained with `rate`.

    Rates are over the peak, at evenly spaced shares of the run; so a run's length and its peak do not enter. One law is
    fitted to all curves, which must be brought to one size beforehand: from a run whose rate never fell, what a fall
    brings cannot be told.
    """
    # The rate of each run, by its number among those that differ.
    distinct = [rate]
    which = []
    for one in rates:
        same = [i for i, other in enumerate(distinct) if np.abs(one - other).max() < SAME_RATE]
        if not same:
            distinct.append(one)
        which.append(same[0] if same else len(distinct) - 1)
    if len(distinct) == 1:
        return np.zeros(curves.shape)
    used = shares >= FITTED_FROM
    losses = np.exp(curves[:, used]).ravel()

    def fitted(theta: Array) -> tuple["MultiPowerLaw", float]:
        alpha, scale, beta, gamma = np.exp(theta)
        parts = [MultiPowerLaw(0, a, alpha, b, scale, beta, gamma) for a, b in ((1.0, 0.0), (0.0, 1.0))]
        basis = [[part.loss(*_cells(one, shares[used])) for part in parts] for one in distinct]
        columns = np.concatenate([basis[i] for i in which], axis=1)
        design = np.stack([np.ones(len(losses)), *columns], axis=1) / losses[:, None]
        (level, a, b), misfit = nnls(design, np.ones(len(losses)))
        return MultiPowerLaw(level, a, alpha, b, scale, beta, gamma), float(misfit)

    options = {"maxfev": 300, "xatol": 1e-2, "fatol": 1e-6}
    best = minimize(lambda theta: fitted(theta)[1], FIRST_EXPONENTS, method="Nelder-Mead", options=options)
    law, _ = fitted(best.x)
    said = np.log([law.loss(*_cells(one, shares)) for one in distinct])
    return np.asarray(said[0] - said[which])


def _cells(rate: Array, shares: Array) -> tuple[Array, NDArray[np.integer[Any]]]:
    """The rate over cells of one run's length in all, none of them 0, and in which cell each share ends"""
    rate = np.maximum(rate, LEAST_RATE) / len(rate)
    return rate, np.clip(np.ceil(shares * len(rate)).astype(int) - 1, 0, len(rate) - 1)
