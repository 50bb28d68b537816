"""Joins the forms into one forecast: each weighs as much as it has foretold each rung of the ladder from those below,
and those of size and tokens, among themselves, as closely as they fit.

Picking the form that fits best in-sample makes intervals too narrow: with the largest runs of public sets held out, the
bootstrap intervals of one form covered 19 % where they promised 95 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri

from isoflop.law.forms import Array, ComputeForm, Form
from isoflop.law.intervals import Draws, mixture_quantiles
from isoflop.law.runs import Runs, nearness, rungs_of

DRAWS = 256
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
# Pretend rungs at which the forecast was just as wrong as it said: how slowly a surprise widens the interval.
PRIOR_RUNGS = 4.0
# A ladder at one ratio of tokens to parameters says nothing of others. At equal compute Hoffmann et al.'s law, as
# refitted by Besiroglu et al. 2024, moves by 0.3 to 0.8 % times the squared log of the change in ratio.
OFF_RATIO = 7e-3
# How far a form of N and D strays from the truth for every factor e away from the data. Before any rung is foretold:
# 0.5 %, within a factor of e.
DRIFT = np.geomspace(2e-4, 0.1, 14)
DRIFT_PRIOR = (5e-3, 1.0)

NEGLIGIBLE = 1e-4
SOME = 48

# Draws a form's parameters from runs; None where those runs cannot say anything of it.
Drawer = Callable[[Form, Runs, int], Draws | None]


@dataclass(frozen=True)
class Member:
    """A form in the mixture. `rolling_error` is the root mean square relative error in foretelling rungs."""

    form: Form
    draws: Draws
    weight: float
    rolling_error: float | None


@dataclass(frozen=True)
class Forecast:
    """A mixture of forms.

    `stretch` >= 1 widens it where rungs were foretold worse than their intervals said. `ratios` are the lowest and
    highest log tokens/params of the data where size and tokens cannot be told apart, else None. `seen` (2, runs) are
    the natural logs of params and tokens it was fitted on.
    """

    members: tuple[Member, ...]
    stretch: float
    ratios: tuple[float, float] | None
    seen: Array

    def quantiles(self, params: Array, tokens: Array, flops: Array) -> Array:
        """Quantiles (LEVELS, points) of the log loss that one new run would have, at natural logs of its inputs."""
        far = np.zeros_like(flops)
        if self.ratios is not None:
            ratio = tokens - params
            far = OFF_RATIO * np.maximum(np.maximum(self.ratios[0] - ratio, ratio - self.ratios[1]), 0.0) ** 2
        mean, sd, weight = self.mixture(params, tokens, flops)
        found = mixture_quantiles(mean, np.hypot(sd, far), weight, LEVELS)
        return np.asarray(found[2] + self.stretch * (found - found[2]))

    def middle(self, params: Array, tokens: Array, flops: Array) -> Array:
        """The mean log loss (points) over some of the draws: near the median of `quantiles`, and quick enough to search
        a plane of sizes and tokens."""
        targets = _Targets(params, tokens, flops, np.zeros_like(flops))
        total = np.zeros_like(flops)
        for member in self.members:
            if member.weight > NEGLIGIBLE:
                x = np.stack([getattr(targets, name) for name in member.form.inputs])
                total += member.weight * member.form.log_loss(member.draws.theta[:, :SOME], x).mean(axis=0)
        return total

    @property
    def drift(self) -> float:
        """The forms' straying for every factor e away from the data: root mean square over the mixture."""
        squares = [member.weight * float(np.mean(member.draws.drift**2)) for member in self.members]
        return float(np.sqrt(sum(squares)))

    def mixture(self, params: Array, tokens: Array, flops: Array, drift: bool = True) -> tuple[Array, Array, Array]:
        """Mean and standard deviation (draws, points) of a new run's log loss under every draw of every member, and the
        weight of each draw; without `drift` the deviation is the run's own noise."""
        far = distance(self.seen, np.stack([params, tokens])) if drift else np.zeros_like(flops)
        targets = _Targets(params, tokens, flops, far)
        # A form that weighs nothing costs as much as one that matters.
        members = [member for member in self.members if member.weight > NEGLIGIBLE]
        mean, sd = (
            np.concatenate(column)
            for column in zip(*(_spread(member.form, member.draws, targets) for member in members), strict=True)
        )
        weight = np.concatenate([np.full(member.draws.n, member.weight / member.draws.n) for member in members])
        return mean, sd, weight / weight.sum()


def forecast(
    forms: Sequence[Form],
    runs: Runs,
    drawer: Drawer,
    ratios: tuple[float, float] | None,
) -> Forecast:
    """The mixture of those of `forms` that the runs can speak of, weighted by how they foretold."""
    drawn = {form.name: draws for form in forms if (draws := drawer(form, runs, DRAWS)) is not None}
    forms = [form for form in forms if form.name in drawn]
    held = _foretold(forms, runs, drawer)
    belief = _belief(held, len(forms))
    foretold = logsumexp(belief, axis=1)
    weights = _with_fits(np.exp(foretold - logsumexp(foretold)), forms, drawn, runs, held)
    errors = _rolling_errors(held, len(forms))
    members = []
    for form, weight, error, of_drift in zip(forms, weights, errors, belief, strict=True):
        draws = drawn[form.name]
        # One drift for all draws, the root mean square of what is believed. Drawn anew for each it makes tails so
        # heavy that intervals of 95 % hold 98 % of public runs and those of 80 % only 69 %.
        drift = np.full(draws.n, np.sqrt(np.average(DRIFT**2, weights=np.exp(of_drift - of_drift.max()))))
        members.append(Member(form, replace(draws, drift=drift), float(weight), error))
    return Forecast(tuple(members), _stretch(held, len(forms)), ratios, np.stack([runs.params, runs.tokens]))


def _rolling_errors(held: Sequence["_Rung"], n_forms: int) -> list[float | None]:
    """(forms): root mean square over the rungs that each foretold"""
    squares = [[rung.squares[i] for rung in held if rung.told[i]] for i in range(n_forms)]
    return [float(np.sqrt(np.mean(own))) if own else None for own in squares]


def _with_fits(
    weights: Array, forms: Sequence[Form], drawn: Mapping[str, Draws], runs: Runs, held: Sequence["_Rung"]
) -> Array:
    """`weights` (forms), those of N and D shared out anew among themselves by how closely they fit the runs: a Gaussian
    likelihood in which each rung that any of them foretold counts once more, parameters paid for in degrees of freedom.

    A form that the runs themselves refute foretells the next rung hardly worse than the right one, and ten rungs on
    much worse: by the rungs that it foretold alone it falls out slowly. Forms of compute do not see what the others do
    and are left as they are.
    """
    joint = [i for i, form in enumerate(forms) if not isinstance(form, ComputeForm)]
    if not joint:
        return weights
    n_rungs = sum(bool(rung.told[joint].any()) for rung in held)
    fits = np.zeros(len(joint))
    for k, i in enumerate(joint):
        form = forms[i]
        residual = runs.y - form.log_loss(drawn[form.name].theta, runs.x(form))
        counts = nearness(runs, form.n_parameters)
        # Per run: forms of more parameters keep more of the smaller runs.
        freedom = max(1.0, float(counts.sum()) - form.n_parameters)
        fits[k] = -0.5 * n_rungs * np.log(np.median(residual**2 @ counts) / freedom)
    # No weight is so small that it cannot come back.
    shares = np.maximum(weights[joint], 1e-300) * np.exp(fits - fits.max())
    found = weights.copy()
    found[joint] = weights[joint].sum() * shares / shares.sum()
    return found


def distance(seen: Array, targets: Array) -> Array:
    """How far each of `targets` (2, points) is from the nearest of `seen` (2, runs), in logs of size and tokens."""
    return np.asarray(np.sqrt(((targets[:, :, None] - seen[:, None]) ** 2).sum(axis=0)).min(axis=1))


@dataclass(frozen=True)
class _Targets:
    """Natural logs (points) of the inputs of new runs, and their distance from the data."""

    params: Array
    tokens: Array
    flops: Array
    distance: Array


@dataclass(frozen=True)
class _Rung:
    """How the forms, in their order, foretold the runs of one rung from those below it; NaN where those were too few
    for a form."""

    scores: Array  # (forms, drifts): mean log density of the losses that came
    below: Array  # (forms, drifts, points): probability of a lower loss than the one that came
    squares: Array  # (forms): mean squared error of the median

    @property
    def told(self) -> NDArray[np.bool_]:
        """(forms)"""
        return np.isfinite(self.squares)


def _foretold(forms: Sequence[Form], runs: Runs, drawer: Drawer) -> list[_Rung]:
    """The rungs, from the third up, that any form can foretell; where there are forms of N and D, any of those: what
    forms of compute make of the first rungs of such runs says nothing of the others."""
    rungs = rungs_of(runs)
    joint = [not isinstance(form, ComputeForm) for form in forms]
    found = []
    for k in range(2, len(rungs)):
        seen, next_ = runs.take(np.concatenate(rungs[:k])), runs.take(rungs[k])
        draws = [drawer(form, seen, DRAWS // 4) for form in forms]
        if not any(one is not None and (of_both or not any(joint)) for one, of_both in zip(draws, joint, strict=True)):
            continue
        at = np.stack([next_.params, next_.tokens])
        targets = _Targets(next_.params, next_.tokens, next_.flops, distance(np.stack([seen.params, seen.tokens]), at))
        scores, below, squares = [], [], []
        for form, one in zip(forms, draws, strict=True):
            if one is None:
                scores.append(np.full(len(DRIFT), np.nan))
                below.append(np.full((len(DRIFT), len(next_)), np.nan))
                squares.append(np.nan)
                continue
            mean, noise = _spread(form, one, targets)
            sd = np.hypot(noise, DRIFT[:, None, None] * targets.distance)
            z = (next_.y - mean) / sd
            density = logsumexp(-0.5 * z**2 - np.log(sd), axis=1) - np.log(len(mean))
            # Runs of a rung share its jitter and the form's error: however many, they count as one test.
            scores.append(np.average(density, weights=next_.share, axis=1))
            below.append(ndtr(z).mean(axis=1))
            squares.append(float(np.average((np.median(mean, axis=0) - next_.y) ** 2, weights=next_.share)))
        found.append(_Rung(np.array(scores), np.stack(below), np.array(squares)))
    return found


def _belief(held: Sequence[_Rung], n_forms: int) -> Array:
    """Log probability (forms, drifts), not normalised."""
    belief = -0.5 * (np.log(DRIFT / DRIFT_PRIOR[0]) / DRIFT_PRIOR[1]) ** 2 + np.zeros((n_forms, 1))
    for rung in held:
        scores, told = rung.scores, rung.told
        # Of a form that needs more runs than there were a rung says nothing: it is taken to have foretold it as well as
        # the others together.
        together = logsumexp(belief[told] + scores[told]) - logsumexp(belief[told])
        belief = belief + np.where(told[:, None], scores, together)
    return np.asarray(belief)


def _stretch(held: Sequence[_Rung], n_forms: int) -> float:
    """How much wider the intervals should have been, each rung foretold with the weights that were known before it."""
    squares = []
    for k, rung in enumerate(held):
        belief = _belief(held[:k], n_forms)[rung.told]
        share = np.exp(belief - logsumexp(belief))
        probability = np.clip(np.einsum("fd,fdp->p", share, rung.below[rung.told]), 1e-9, 1 - 1e-9)
        squares.append(float(np.mean(ndtri(probability) ** 2)))
    return float(np.sqrt(max(1.0, (PRIOR_RUNGS + sum(squares)) / (PRIOR_RUNGS + len(squares)))))


def _spread(form: Form, draws: Draws, targets: _Targets) -> tuple[Array, Array]:
    """Mean and standard deviation (draws, points) of a new run's log loss."""
    x = np.stack([getattr(targets, name) for name in form.inputs])
    return form.log_loss(draws.theta, x), draws.error(targets.flops, targets.distance)
