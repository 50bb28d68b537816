"""A fitted scaling law: what it says of its forms, what it foretells of a new run, and how it is kept in a file."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isoflop.errors import InputError
from isoflop.law.approaches import Optimum, compare
from isoflop.law.descent import HUBER_DELTA, LEAST_ABSOLUTE
from isoflop.law.diagnosis import data_warnings, floor_warning, target_warnings, unidentified
from isoflop.law.fit import Fit, fit_form
from isoflop.law.forecast import DRAWS, Forecast, Member, forecast
from isoflop.law.forms import FORMS, JOINT_FORMS, Array, ComputeForm, Form
from isoflop.law.intervals import Draws, bootstrap_draws, posterior_draws
from isoflop.law.points import Point, check_points
from isoflop.law.runs import Runs, collinear, nearness, runs_of, sizes_of

# Sizes beyond a form's parameters: with fewer, the parameters and their spread are guesswork.
SPARE_SIZES = 3
# A form of more parameters than these takes so many sizes for each of them: from 21 to 31 runs of Gadre et al. the nine
# of Farseer's foretold the next ones nearer, by intervals of half the loss and more.
MANY_PARAMETERS, SIZES_EACH = 6, 4

# Of law.json; what was written before it was said counts as 1.
FORMAT = 2


# What a fit minimises: Huber's loss of the log residual at the delta of Hoffmann et al., or its absolute value.
OBJECTIVES = {"huber": HUBER_DELTA, "lad": LEAST_ABSOLUTE}

# Of the ceiling, the share below which a loss must lie.
NEAR_CEILING = 0.95


@dataclass(frozen=True)
class Prediction:
    """The loss one new run would measure, noise included: its median, and intervals that hold it with 80 and 95 %."""

    params: float
    tokens: float
    flops: float
    loss: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Curve:
    """Predictions along the family's ratio of tokens to parameters, for plots; arrays over `flops`."""

    flops: Array
    loss: Array
    low_80: Array
    high_80: Array
    low_95: Array
    high_95: Array


@dataclass(frozen=True)
class Parameter:
    """A value and its 95 % interval; None is infinite, or not known."""

    value: float | None
    low_95: float | None
    high_95: float | None


@dataclass(frozen=True)
class FormResult:
    """One form: its Huber fit to all runs alike (objective, gradient and starts as in `fit.Fit`), and its weight in the
    forecast.

    `rolling_error` is the root mean square relative error with which it foretold rungs from those below. Where the data
    do not outnumber the parameters there is no fit: the parameters are medians of the draws and `note` says so.
    """

    name: str
    equation: str
    parameters: dict[str, Parameter]
    weight: float
    rolling_error: float | None
    huber_delta: float | None
    objective: float | None
    gradient_norm: float | None
    starts: int
    starts_at_best: int
    note: str


@dataclass(frozen=True)
class Law:
    """What `fit_law` returns.

    `identified` says whether the data tell an irreducible loss from none; `noise` is the relative run-to-run standard
    deviation at the largest compute; `ceiling` the loss without training compute and `objective` what `fit_law` was
    given. Warnings are sentences for people.
    """

    points: tuple[Point, ...]
    forms: tuple[FormResult, ...]
    identified: bool
    noise: float
    warnings: tuple[str, ...]
    forecast: Forecast
    ceiling: float | None = None
    objective: str = "huber"

    @property
    def unidentified(self) -> list[str]:
        """Why its parameters are not to be quoted; empty where they may be."""
        return unidentified(self.forecast, self._runs, self.forecast.ratios is not None)

    def optima(self) -> list[Optimum]:
        """How size and tokens should grow with compute, by each approach that the points allow."""
        return compare(self._runs, JOINT_FORMS, self.forecast.ratios is not None, OBJECTIVES[self.objective])

    def beyond(self, prediction: Prediction) -> float:
        """Its compute over that of the largest run: how far the law was followed."""
        return prediction.flops / max(point.flops for point in self.points)

    @property
    def _runs(self) -> Runs:
        return runs_of(sorted(self.points, key=lambda point: (point.flops, point.params, point.tokens, point.loss)))

    def predict(self, params: float, tokens: float, flops: float | None = None) -> Prediction:
        """The loss of one new run of `params` parameters on `tokens` tokens.

        `flops` must be counted as the points' were; left out, it is 6ND times what the nearest size has
        over that.

        Raises:
            InputError: a number is not finite and above 0.
        """
        given = {"params": params, "tokens": tokens, "flops": 1.0 if flops is None else flops}
        for name, value in given.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"prediction for {name} = {value}: give a finite number above 0")
        if flops is None:
            nearest = min(self.points, key=lambda point: abs(math.log(point.params / params)))
            flops = params * tokens * (nearest.flops / (nearest.params * nearest.tokens))
        inputs = (np.log([value]) for value in (params, tokens, flops))
        low_95, low_80, loss, high_80, high_95 = (float(q) for q in np.exp(self.forecast.quantiles(*inputs)[:, 0]))
        return Prediction(float(params), float(tokens), float(flops), loss, low_80, high_80, low_95, high_95)

    def curve(self, flops: Array) -> Curve:
        """Predictions for training FLOPs (points) at the points' typical tokens per parameter."""
        x = np.log(np.asarray(flops, dtype=float))
        ratio = float(np.median([math.log(point.tokens / point.params) for point in self.points]))
        per_token = float(np.median([math.log(point.flops / (point.params * point.tokens)) for point in self.points]))
        params = 0.5 * (x - per_token - ratio)
        low_95, low_80, loss, high_80, high_95 = np.exp(self.forecast.quantiles(params, params + ratio, x))
        return Curve(np.exp(x), loss, low_80, high_80, low_95, high_95)

    def warnings_for(self, predictions: Sequence[Prediction]) -> list[str]:
        """What to beware of in these predictions, beyond the law's own `warnings`."""
        return target_warnings(self.points, [(p.params, p.tokens, p.flops) for p in predictions], self.forecast.ratios)

    def summary(self) -> dict[str, Any]:
        """The part of `to_json` that commands print: objective, forms, identified, noise, warnings."""
        return {
            "objective": self.objective,
            "forms": [asdict(form) for form in self.forms],
            "identified": self.identified,
            "noise": self.noise,
            "warnings": list(self.warnings),
        }

    def to_json(self) -> dict[str, Any]:
        """A document from which `from_json` predicts the same, to the bit, without fitting again."""
        members = [
            {
                "form": member.form.name,
                "weight": member.weight,
                "rolling_error": member.rolling_error,
                "theta": member.draws.theta.tolist(),
                "jitter": member.draws.jitter.tolist(),
                "seed_top": member.draws.seed_top.tolist(),
                "fall": member.draws.fall.tolist(),
                "drift": member.draws.drift.tolist(),
                "top": member.draws.top,
            }
            for member in self.forecast.members
        ]
        kept = {"stretch": self.forecast.stretch, "ratios": self.forecast.ratios, "members": members}
        return {
            "format": FORMAT,
            **self.summary(),
            "ceiling": self.ceiling,
            "points": [asdict(point) for point in self.points],
            "forecast": kept,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Law":
        """The law that `to_json` wrote.

        Raises:
            InputError: the document is not such a law, or another version's.
        """
        try:
            written = document.get("format", 1)
            if written != FORMAT:
                raise InputError(f"of format {written!r}, this version reads {FORMAT}; isoflop law fits it again")
            kept = document["forecast"]
            ratios = kept["ratios"]
            points = tuple(Point(**point) for point in document["points"])
            return cls(
                points=points,
                forms=tuple(_form_result(form) for form in document["forms"]),
                identified=bool(document["identified"]),
                noise=float(document["noise"]),
                warnings=tuple(document["warnings"]),
                forecast=Forecast(
                    tuple(_member(member) for member in kept["members"]),
                    float(kept["stretch"]),
                    None if ratios is None else (float(ratios[0]), float(ratios[1])),
                    _places(points),
                ),
                ceiling=document["ceiling"],
                objective=document["objective"],
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"not a law that isoflop wrote ({error!r}); fit it again with isoflop law") from None


def fit_law(points: Sequence[Point], seed: int = 0, ceiling: float | None = None, objective: str = "huber") -> Law:
    """Fits every form to the points and joins them into a forecast. The same points and seed give the same law,
    whatever their order.

    `ceiling`, where known, is the loss without any training compute, in the points' unit: that of guessing each token
    by its frequency. Losses near it bend, and how much is then known before any run. `objective` is "huber" or "lad"
    (least absolute deviations of the log loss): what the fits and the bootstrap minimise.

    Raises:
        InputError: fewer than 3 sizes or budgets, a number that is not finite and above 0, FLOPs of two conventions, or
            an objective that is neither.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r}: use huber or lad (least absolute deviations)")
    check_points(points)
    delta = OBJECTIVES[objective]
    unique = tuple(dict.fromkeys(points))
    runs = runs_of(sorted(unique, key=lambda point: (point.flops, point.params, point.tokens, point.loss)))
    one_ratio = collinear(runs)
    rng = np.random.default_rng(seed)
    # A model that is no better than guessing by frequency, or hardly, has not begun to learn: that tells nothing.
    highest = max(point.loss for point in unique)
    known = ceiling if ceiling is not None and highest < NEAR_CEILING * ceiling else None
    # A power law's local exponent is off by half where the loss is half the ceiling: it is known to be wrong there.
    bent = known is not None and highest > known / 2

    def draw(form: Form, seen: Runs, n: int) -> Draws | None:
        if isinstance(form, ComputeForm):
            if bent and not form.ceiling:
                return None
            return posterior_draws(form, seen, rng, n, known)
        if len(sizes_of(seen).flops) < _needed(form) or collinear(seen):
            return None
        return bootstrap_draws(form, seen, nearness(seen, form.n_parameters), rng, n, delta)

    ratio = runs.tokens - runs.params
    ratios = (float(ratio.min()), float(ratio.max())) if one_ratio else None
    joined = forecast(list(FORMS.values()), runs, draw, ratios)
    noise = _noise(joined, runs)
    results = tuple(_result(form, runs, joined, noise, one_ratio, known, objective, seed) for form in FORMS.values())
    no_floor = floor_warning(joined, runs)
    warnings = data_warnings(points, runs, one_ratio) + ([no_floor] if no_floor else [])
    top = float(noise[np.argmax(runs.flops)])
    return Law(unique, results, no_floor is None, top, tuple(warnings), joined, ceiling, objective)


def _needed(form: Form) -> int:
    """Sizes and budgets from which a form of size and tokens foretells: of all runs, and of those below a rung"""
    n = form.n_parameters
    return SIZES_EACH * n if n > MANY_PARAMETERS else n + SPARE_SIZES


def _places(points: Sequence[Point]) -> Array:
    """(2, points): natural logs of params and tokens"""
    return np.log([[point.params for point in points], [point.tokens for point in points]])


def _noise(joined: Forecast, runs: Runs) -> Array:
    """Relative noise of one run at each point, after the compute form that foretells best."""
    best = max((m for m in joined.members if isinstance(m.form, ComputeForm)), key=lambda member: member.weight)
    return np.asarray(np.median(best.draws.noise(runs.flops), axis=0))


def _result(
    form: Form,
    runs: Runs,
    joined: Forecast,
    noise: Array,
    one_ratio: bool,
    ceiling: float | None,
    objective: str,
    seed: int,
) -> FormResult:
    member = next((member for member in joined.members if member.form.name == form.name), None)
    sizes = len(sizes_of(runs).flops)
    fit: Fit | None = None
    note = ""
    if not isinstance(form, ComputeForm) and one_ratio:
        note = "not fitted: at one ratio of tokens to parameters the terms of N and D are one"
    elif isinstance(form, ComputeForm) and form.ceiling and ceiling is not None:
        note = "its ceiling is known: medians of the draws"
    elif sizes <= form.n_parameters:
        note = f"{form.n_parameters} parameters need more than {form.n_parameters} sizes and budgets; there are {sizes}"
    elif isinstance(form, ComputeForm):
        # Few points with honest noise: Huber's delta is that of 95 % efficiency for Gaussian noise (Huber 1964), and
        # noisy small sizes weigh less. At Hoffmann's 1e-3 a ladder would be fitted through three of its points.
        weights = runs.share * (noise.min() / noise) ** 2
        wider = max(HUBER_DELTA, 1.345 * float(np.median(noise)))
        fit = fit_form(form, runs.x(form), runs.y, weights, wider if objective == "huber" else LEAST_ABSOLUTE)
    else:
        fit = fit_form(form, runs.x(form), runs.y, runs.share, OBJECTIVES[objective])
    draws = None if member is None else member.draws.theta
    if draws is not None and not isinstance(form, ComputeForm):
        # Parameters are those of all runs alike, as in the literature; a forecast counts on the largest more.
        rng = np.random.default_rng(seed)
        draws = bootstrap_draws(form, runs, runs.share, rng, DRAWS, OBJECTIVES[objective]).theta
    theta = fit.theta if fit else np.median(draws, axis=1) if draws is not None else None
    return FormResult(
        name=form.name,
        equation="" if theta is None else form.equation(theta),
        parameters={} if theta is None else _parameters(form, theta, draws),
        weight=member.weight if member else 0.0,
        rolling_error=member.rolling_error if member else None,
        huber_delta=fit.delta if fit else None,
        objective=fit.objective if fit else None,
        gradient_norm=fit.gradient_norm if fit else None,
        starts=fit.starts if fit else 0,
        starts_at_best=fit.starts_at_best if fit else 0,
        note=note,
    )


def _parameters(form: Form, theta: Array, draws: Array | None) -> dict[str, Parameter]:
    values = form.named(theta)
    if draws is None:
        return {name: Parameter(value, None, None) for name, value in values.items()}
    drawn = [form.named(draw) for draw in draws.T]
    found = {}
    for name, value in values.items():
        column = np.array([math.inf if draw[name] is None else draw[name] for draw in drawn], dtype=float)
        low, high = np.quantile(column, [0.025, 0.975], method="inverted_cdf")
        centre = math.inf if value is None else value
        found[name] = Parameter(value, _finite(min(low, centre)), _finite(max(high, centre)))
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _form_result(form: dict[str, Any]) -> FormResult:
    parameters = {name: Parameter(**parameter) for name, parameter in form["parameters"].items()}
    return FormResult(**{**form, "parameters": parameters})


def _member(kept: dict[str, Any]) -> Member:
    theta, jitter, seed_top, fall, drift = (
        np.asarray(kept[name], dtype=float) for name in ("theta", "jitter", "seed_top", "fall", "drift")
    )
    draws = Draws(theta, jitter, seed_top, fall, drift, float(kept["top"]))
    return Member(FORMS[kept["form"]], draws, float(kept["weight"]), kept["rolling_error"])
