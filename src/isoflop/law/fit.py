"""Fits a form by Huber's loss of the log residual, to the bottom: many starts, analytic gradients, full precision."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from isoflop.law.forms import Array, Form

# Hoffmann et al. 2022, section 3.3.
HUBER_DELTA = 1e-3
# Absolute, for an objective scaled to order 1. Unscaled it is about 1e-3 at the minimum, and the default tolerance of
# L-BFGS-B returns its own start: the error in Hoffmann et al.'s published parameters (Besiroglu et al. 2024).
GRADIENT_TOLERANCE = 1e-9
STEPS = 500
SAME = 1e-6


@dataclass(frozen=True)
class Fit:
    """The best parameters found, and how far to trust that nothing is better.

    `objective` is sum_i w_i Huber_delta(ln L_i - ln f_i); `gradient_norm` its largest derivative there, inputs centred;
    `starts_at_best` of `starts` ended at the same objective to a millionth.
    """

    theta: Array
    delta: float
    objective: float
    gradient_norm: float
    starts: int
    starts_at_best: int


def fit_form(form: Form, x: Array, y: Array, weights: Array, delta: float = HUBER_DELTA) -> Fit:
    """Fits `form` to log losses y (points) at x (inputs, points), the natural logs of its inputs."""
    # Centred inputs: the condition of the problem falls from 1e11 to that of its exponents alone.
    centre = x.mean(axis=1)
    x = x - centre[:, None]
    ends = [_descend(form, x, y, weights, delta, start) for start in form.starts(x, y, weights)]
    theta, objective, gradient_norm = min(ends, key=lambda end: end[1])
    near = sum(end[1] <= objective * (1 + SAME) + 1e-15 for end in ends)
    return Fit(form.shifted(theta, centre), delta, objective, gradient_norm, len(ends), near)


def refit(form: Form, x: Array, y: Array, weights: Array, start: Array, delta: float = HUBER_DELTA) -> Array:
    """The optimum that a descent from `start` finds: for resamples of data whose own optimum is known."""
    centre = x.mean(axis=1)
    start = form.shifted(start, -centre)
    return form.shifted(_minimum(form, x - centre[:, None], y, weights, delta, start), centre)


def _descend(form: Form, x: Array, y: Array, weights: Array, delta: float, start: Array) -> tuple[Array, float, float]:
    """Parameters, objective and largest derivative at the end of a descent from `start`.

    With a tiny delta Huber's loss is nearly the absolute value, whose corners stop a descent: delta falls in steps.
    """
    theta = start
    for wider in sorted({max(delta, 10.0**-k) for k in range(2, 10)}, reverse=True):
        theta = _minimum(form, x, y, weights, wider, theta)
    value, gradient = _objective(theta, form, x, y, weights, delta, 1.0)
    return theta, value, float(np.abs(gradient).max())


def _minimum(form: Form, x: Array, y: Array, weights: Array, delta: float, start: Array) -> Array:
    scale = 100.0 / (delta * float(weights.sum()))
    arguments = (form, x, y, weights, delta, scale)
    options = {"gtol": GRADIENT_TOLERANCE, "maxiter": STEPS}
    found = minimize(_objective, start, arguments, jac=True, method="BFGS", options=options)
    return np.asarray(found.x if np.isfinite(found.fun) else start)


def _objective(
    theta: Array, form: Form, x: Array, y: Array, weights: Array, delta: float, scale: float
) -> tuple[float, Array]:
    fitted, jacobian = form.log_loss_and_jacobian(theta, x)
    residual = y - fitted
    size = np.abs(residual)
    huber = np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
    slope = weights * np.clip(residual, -delta, delta)
    return scale * float(weights @ huber), -scale * (jacobian @ slope)
