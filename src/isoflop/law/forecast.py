"""Joins the forms into one forecast: each weighs as much as it has foretold each rung of the ladder from those below.

Picking the form that fits best in-sample makes intervals too narrow: with the largest runs of public sets held out, the
bootstrap intervals of one form covered 19 % where they promised 95 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri

from isoflop.law.forms import Array, Form
from isoflop.law.intervals import Draws, mixture_quantiles
from isoflop.law.runs import Runs, rungs_of

DRAWS = 256
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
# Pretend rungs at which the forecast was just as wrong as it said: how slowly a surprise widens the interval.
PRIOR_RUNGS = 4.0
# A ladder at one ratio of tokens to parameters says nothing of others. At equal compute Hoffmann et al.'s law, as
# refitted by Besiroglu et al. 2024, moves by 0.3 to 0.8 % times the squared log of the change in ratio.
OFF_RATIO = 7e-3

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
    highest log tokens/params of the data where size and tokens cannot be told apart, else None.
    """

    members: tuple[Member, ...]
    stretch: float
    ratios: tuple[float, float] | None

    def quantiles(self, params: Array, tokens: Array, flops: Array) -> Array:
        """Quantiles (LEVELS, points) of the log loss that one new run would have, at natural logs of its inputs."""
        far = np.zeros_like(flops)
        if self.ratios is not None:
            ratio = tokens - params
            far = OFF_RATIO * np.maximum(np.maximum(self.ratios[0] - ratio, ratio - self.ratios[1]), 0.0) ** 2
        targets = {"params": params, "tokens": tokens, "flops": flops}
        parts = [_spread(member.form, member.draws, targets) for member in self.members]
        weight = [
            np.full(mean.shape[0], m.weight / mean.shape[0]) for (mean, _), m in zip(parts, self.members, strict=True)
        ]
        mean, sd = (np.concatenate(column) for column in zip(*parts, strict=True))
        found = mixture_quantiles(mean, np.hypot(sd, far), np.concatenate(weight), LEVELS)
        return np.asarray(found[2] + self.stretch * (found - found[2]))


def forecast(forms: Sequence[Form], runs: Runs, drawer: Drawer, ratios: tuple[float, float] | None) -> Forecast:
    """The mixture of those of `forms` that the runs can speak of, weighted by how they foretold."""
    drawn = {form.name: draws for form in forms if (draws := drawer(form, runs, DRAWS)) is not None}
    forms = [form for form in forms if form.name in drawn]
    held = _foretold(forms, runs, drawer)
    weights = _weights(held, len(forms))
    errors = np.sqrt(np.mean([rung.squares for rung in held], axis=0)) if held else [None] * len(forms)
    members = [
        Member(form, drawn[form.name], float(weight), None if error is None else float(error))
        for form, weight, error in zip(forms, weights, errors, strict=True)
    ]
    return Forecast(tuple(members), _stretch(held, len(forms)), ratios)


@dataclass(frozen=True)
class _Rung:
    """How the forms, in their order, foretold the runs of one rung from those below it."""

    scores: Array  # (forms): mean log density of the losses that came
    below: Array  # (forms, points): probability of a lower loss than the one that came
    squares: Array  # (forms): mean squared error of the median


def _foretold(forms: Sequence[Form], runs: Runs, drawer: Drawer) -> list[_Rung]:
    """The rungs, from the third up, that all forms can foretell."""
    rungs = rungs_of(runs)
    found = []
    for k in range(2, len(rungs)):
        seen, next_ = runs.take(np.concatenate(rungs[:k])), runs.take(rungs[k])
        draws = [one for form in forms if (one := drawer(form, seen, DRAWS // 4)) is not None]
        if len(draws) < len(forms):
            continue
        targets = {"params": next_.params, "tokens": next_.tokens, "flops": next_.flops}
        scores, below, squares = [], [], []
        for form, one in zip(forms, draws, strict=True):
            mean, sd = _spread(form, one, targets)
            z = (next_.y - mean) / sd
            density = logsumexp(-0.5 * z**2 - np.log(sd), axis=0) - np.log(len(z))
            # Runs of a rung share its jitter and the form's error: however many, they count as one test.
            scores.append(float(np.average(density, weights=next_.share)))
            below.append(ndtr(z).mean(axis=0))
            squares.append(float(np.average((np.median(mean, axis=0) - next_.y) ** 2, weights=next_.share)))
        found.append(_Rung(np.array(scores), np.stack(below), np.array(squares)))
    return found


def _weights(held: Sequence[_Rung], n_forms: int) -> Array:
    score = np.sum([rung.scores for rung in held], axis=0) if held else np.zeros(n_forms)
    weight = np.exp(score - score.max())
    return np.asarray(weight / weight.sum())


def _stretch(held: Sequence[_Rung], n_forms: int) -> float:
    """How much wider the intervals should have been, each rung foretold with the weights that were known before it."""
    squares = []
    for k, rung in enumerate(held):
        probability = np.clip(_weights(held[:k], n_forms) @ rung.below, 1e-9, 1 - 1e-9)
        squares.append(float(np.mean(ndtri(probability) ** 2)))
    return float(np.sqrt(max(1.0, (PRIOR_RUNGS + sum(squares)) / (PRIOR_RUNGS + len(squares)))))


def _spread(form: Form, draws: Draws, targets: dict[str, Array]) -> tuple[Array, Array]:
    """Mean and standard deviation (draws, points) of a new run's log loss."""
    x = np.stack([targets[name] for name in form.inputs])
    return form.log_loss(draws.theta, x), draws.noise(targets["flops"])
