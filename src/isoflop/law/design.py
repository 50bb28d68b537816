"""Which runs to buy next: those that narrow the interval of the run that matters most, for what may be spent.

What is foretold of a target is uncertain three ways: in the draws of every form (their parameters, and which form
holds), in the drift of the forms away from the data, and in the noise of the run itself. A candidate tells of the first
through its covariance with the target over all draws, weighed as the forecast weighs them, and shortens the way of the
second; noise stays. Beside designs for parameters (D-optimal) or for one form, a run that settles which form holds is
worth buying.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.errors import InputError
from isoflop.law.forecast import distance
from isoflop.law.forms import Array
from isoflop.law.law import Law

# Half an interval of 95 % in standard deviations.
HALF_95 = 1.96
# A candidate is a size and a ratio of tokens to parameters on this grid of factors.
SIZE_FACTOR, RATIOS = 1.5, (5.0, 10.0, 20.0, 40.0, 80.0)
# To begin with: so many runs at most, each for at most twice an equal share of what may be spent.
BEGIN_WITH = 40
DEAREST = 2 / BEGIN_WITH
# Of the cost, in what a run narrows over its cost.
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Purchase:
    """A run to train, and the target's half-width of 95 % (relative) before it and, as expected, after it."""

    params: float
    tokens: float
    flops: float
    half_width_before: float
    half_width_after: float


def candidates_for(law: Law, target_params: float, target_tokens: float) -> list[tuple[float, float]]:
    """Sizes and tokens worth asking of: from the smallest size that was trained to the target's, each cheaper than the
    target."""
    smallest = min(point.params for point in law.points)
    sizes = np.exp(np.arange(np.log(smallest), np.log(target_params), np.log(SIZE_FACTOR)))
    most = target_params * target_tokens / 2
    return [(float(size), float(size * ratio)) for size in sizes for ratio in RATIOS if size * size * ratio < most]


def begin(candidates: Sequence[tuple[float, float]], costs: Sequence[float], budget_flops: float) -> list[int]:
    """Which candidates (indices) to train before any law: spread over sizes and tokens as far apart as the budget pays
    for, the cheapest first; none takes over a twentieth of it.

    A law that has seen one corner only takes any form for the right one, and buys by it.
    """
    places, cost = np.log(np.array(candidates, dtype=float)).T, np.array(costs, dtype=float)
    left = budget_flops
    far = np.full(len(cost), np.inf)
    found: list[int] = []
    while len(found) < BEGIN_WITH:
        open_ = (cost <= min(left, DEAREST * budget_flops)) & (far > 0)
        if not open_.any():
            break
        chosen = int(
            np.argmin(np.where(open_, cost, np.inf)) if not found else np.argmax(np.where(open_, far, -np.inf))
        )
        found.append(chosen)
        left -= float(cost[chosen])
        far = np.minimum(far, np.sqrt(((places - places[:, [chosen]]) ** 2).sum(axis=0)))
    return found


def buy(
    law: Law,
    targets: Sequence[tuple[float, float]],
    candidates: Sequence[tuple[float, float]],
    budget_flops: float,
    most: int = 10,
    costs: Sequence[float] | None = None,
    copies: Sequence[int] | None = None,
) -> list[Purchase]:
    """The runs to train, in order, until the budget or `most` is reached. A size may be bought again: another seed,
    `copies` times where that is given. `costs` are the candidates' training FLOPs; left out, they are those of the
    points for such a size and tokens.

    Each is the best given those before it, by what it narrows over its cost to a power. A power of one buys the
    cheapest run over and over, none the dearest once: of the plans that the powers make, the one that ends narrowest is
    taken.

    Raises:
        InputError: no candidate, or none that the budget pays for.
    """
    if not candidates:
        raise InputError("no candidate runs below the target: give a larger target")
    places = np.log(np.array(candidates, dtype=float)).T
    goals = np.log(np.array(targets, dtype=float)).T
    cost = np.exp(places.sum(axis=0)) * _flops_per_token(law) if costs is None else np.array(costs, dtype=float)
    cheapest = float(cost.min())
    if cheapest > budget_flops:
        raise InputError(
            f"budget {budget_flops:.3g} FLOPs: the cheapest candidate takes {cheapest:.3g}; raise the budget"
        )
    left = np.full(len(candidates), most) if copies is None else np.array(copies)
    plans = [
        _plan(_State(law, goals, places, cost), candidates, budget_flops, most, left.copy(), power) for power in POWERS
    ]
    return min(plans, key=lambda plan: plan[-1].half_width_after if plan else np.inf)


def _plan(
    state: "_State",
    candidates: Sequence[tuple[float, float]],
    budget_flops: float,
    most: int,
    copies: NDArray[np.int_],
    power: float,
) -> list[Purchase]:
    found: list[Purchase] = []
    while len(found) < most:
        affordable = np.flatnonzero((state.cost <= budget_flops) & (copies > 0))
        if not len(affordable):
            break
        before = state.half_width()
        gain = (before - state.half_width_after()) / state.cost**power
        chosen = int(affordable[np.argmax(gain[affordable])])
        if gain[chosen] <= 0:
            break
        budget_flops -= float(state.cost[chosen])
        copies[chosen] -= 1
        state.learn(chosen)
        params, tokens = candidates[chosen]
        found.append(Purchase(params, tokens, float(state.cost[chosen]), before, state.half_width()))
    return found


def _flops_per_token(law: Law) -> float:
    """Training FLOPs per parameter and token, as the points count them"""
    return float(np.median([point.flops / (point.params * point.tokens) for point in law.points]))


class _State:
    """Covariance of the log loss over targets and candidates (targets first), and what is known of drift and noise."""

    def __init__(self, law: Law, targets: Array, candidates: Array, cost: Array) -> None:
        self.places = np.concatenate([targets, candidates], axis=1)
        self.n_targets = targets.shape[1]
        flops = self.places.sum(axis=0) + np.log(_flops_per_token(law))
        self.cost = cost
        mean, spread, weight = law.forecast.mixture(self.places[0], self.places[1], flops, drift=False)
        off = mean - weight @ mean
        self.covariance = (off * weight[:, None]).T @ off
        self.noise = weight @ spread**2
        self.drift = law.forecast.drift
        self.distance = distance(law.forecast.seen, self.places)
        # How near each candidate brings every place.
        self.near = np.sqrt(((self.places[:, :, None] - candidates[:, None]) ** 2).sum(axis=0))

    def half_width(self) -> float:
        variance = np.diag(self.covariance) + self.noise + (self.drift * self.distance) ** 2
        return float(HALF_95 * np.sqrt(variance[: self.n_targets]).mean())

    def half_width_after(self) -> Array:
        """(candidates): the targets' mean half-width once a candidate is known"""
        n = self.n_targets
        across = self.covariance[:n, n:]
        left = np.maximum(np.diag(self.covariance)[:n, None] - across**2 / self._certainty(), 0.0)
        drift = self.drift * np.minimum(self.distance[:n, None], self.near[:n])
        return np.asarray(HALF_95 * np.sqrt(left + self.noise[:n, None] + drift**2).mean(axis=0))

    def learn(self, candidate: int) -> None:
        column = self.covariance[:, self.n_targets + candidate].copy()
        self.covariance -= np.outer(column, column) / self._certainty()[candidate]
        self.distance = np.minimum(self.distance, self.near[:, candidate])

    def _certainty(self) -> Array:
        """(candidates): the variance of what a candidate would measure"""
        n = self.n_targets
        drift = (self.drift * self.distance[n:]) ** 2
        return np.asarray(np.diag(self.covariance)[n:] + self.noise[n:] + drift)
