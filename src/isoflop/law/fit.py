"""One form fitted to points, to the bottom, and how far to trust that nothing is better."""

from dataclasses import dataclass

import numpy as np

from isoflop.law.descent import GRADIENT_TOLERANCE, HUBER_DELTA, STEPS, descend
from isoflop.law.forms import Array, Form

SAME = 1e-6
# Of more points than these a sample shows the way from each start, by derivatives down to so much.
SAMPLE, SAMPLE_TOLERANCE = 1000, 1e-5


@dataclass(frozen=True)
class Fit:
    """The best parameters found.

    `objective` is sum_i w_i Huber_delta(ln L_i - ln f_i); `gradient_norm` its largest derivative there over delta and
    the total weight, inputs centred; `starts_at_best` of `starts` ended at the same objective to a millionth.
    """

    theta: Array
    delta: float
    objective: float
    gradient_norm: float
    starts: int
    starts_at_best: int


def fit_form(
    form: Form,
    x: Array,
    y: Array,
    weights: Array,
    delta: float = HUBER_DELTA,
    tolerance: float = GRADIENT_TOLERANCE,
    steps: int = STEPS,
) -> Fit:
    """Fits `form` to log losses y (points) at x (inputs, points), the natural logs of its inputs, from all its
    starts."""
    centre = form.centre(x)
    many = len(y) > SAMPLE
    some = np.random.default_rng(0).choice(len(y), SAMPLE, replace=False) if many else np.arange(len(y))
    x_some, y_some, of_some = x[:, some], y[some], weights[some]
    starts = form.shifted(np.stack(form.starts(x_some - centre[:, None], y_some, of_some), axis=1), centre)
    if many:
        starts = descend(form, x_some, y_some, of_some, delta, starts, SAMPLE_TOLERANCE, steps).theta
    ends = descend(form, x, y, weights, delta, starts, tolerance, steps, near=many and delta >= HUBER_DELTA)
    least = float(ends.objective.min())
    # Of ends that differ by rounding alone, the one that lies flattest.
    best = int(np.argmin(np.where(ends.objective <= least * (1 + 1e-12), ends.gradient_norm, np.inf)))
    near = int(np.sum(ends.objective <= least * (1 + SAME) + 1e-15))
    objective, gradient = float(ends.objective[best]), float(ends.gradient_norm[best])
    return Fit(ends.theta[:, best], delta, objective, gradient, starts.shape[1], near)
