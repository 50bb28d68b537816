"""Many fits at once: descents of Huber's loss of the log residual over a whole batch of weights, data or starts.

A bootstrap is thousands of fits to the same points under other weights, a grid of starts thousands of descents on one
objective: arrays with one axis more. Each fit takes its own steps (Levenberg and Marquardt's) and drops out when done.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.law.forms import Array, Form

# Hoffmann et al. 2022, section 3.3.
HUBER_DELTA = 1e-3
# So small a delta that Huber's loss is the absolute value for residuals of any data: least absolute deviations.
LEAST_ABSOLUTE = 1e-7
# Fits side by side: the arrays (block, points) of a step stay in a core's cache.
BLOCK = 64
# Largest derivative of the objective over delta and the total weight, inputs centred. The objective itself is no guide:
# it is 1e-3 at the minimum, and the default tolerance of L-BFGS-B returns its own start: the error in Hoffmann et al.'s
# published parameters (Besiroglu et al. 2024).
GRADIENT_TOLERANCE = 1e-9
STEPS = 500
# Nearly absolute losses have corners that stop a descent from afar: delta falls to its value by this factor, with a few
# steps at each.
DELTA_FALL, DELTA_FROM, STEPS_ON_THE_WAY = 0.3, 0.05, 10
# Damping of the first step, its change after a step that was taken and one that was not, and when to give up.
STILL = 1e-5
# Near the minimum a step gains less than the sum can show.
ROUNDING = 4e-16
DAMPING, LOWER, RAISE, DAMPING_RANGE = 1e-2, 0.2, 6.0, (1e-9, 1e12)


@dataclass(frozen=True)
class Descent:
    """Where each fit of a batch ended: theta (n_parameters, batch); objective and gradient norm (batch).

    The objective is sum_i w_i Huber_delta(y_i - f_i), the gradient norm its largest derivative by a parameter over
    delta and the total weight.
    """

    theta: Array
    objective: Array
    gradient_norm: Array


def descend(
    form: Form,
    x: Array,
    y: Array,
    weights: Array,
    delta: float,
    start: Array,
    tolerance: float = GRADIENT_TOLERANCE,
    steps: int = STEPS,
    near: bool = False,
) -> Descent:
    """Descends from start (n_parameters, batch) on log losses y at x (inputs, points) under weights, until no
    derivative is above `tolerance` or `steps` are done.

    y and weights are (points), or (batch, points) where fits differ in them. Starts that are `near` their ends already
    need no larger delta on the way: a half to a third of the steps.
    """
    centre = form.centre(x)
    x, theta = x - centre[:, None], form.shifted(start, -centre)
    shape = start.shape[1], x.shape[1]
    y, weights = np.broadcast_to(y, shape), np.broadcast_to(weights, shape)

    def work(rows: slice) -> Descent:
        problem = _Problem(form, x, y[rows], weights[rows])
        way = [] if near else _on_the_way(delta)
        return _descend_block(problem, theta[:, rows], way, delta, tolerance, steps)

    blocks = [slice(i, i + BLOCK) for i in range(0, shape[0], BLOCK)]
    if len(blocks) == 1:
        ends = [work(blocks[0])]
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ends = list(pool.map(work, blocks))
    return Descent(
        form.shifted(np.concatenate([end.theta for end in ends], axis=1), centre),
        np.concatenate([end.objective for end in ends]),
        np.concatenate([end.gradient_norm for end in ends]),
    )


@dataclass
class _Problem:
    """A block of fits: x (inputs, points), y and weights (batch, points)."""

    form: Form
    x: Array
    y: Array
    weights: Array

    def at(self, theta: Array) -> tuple[Array, Array]:
        """Residuals (batch, points), and the form's derivatives (batch, n_parameters, points)."""
        fitted, jacobian = self.form.log_loss_and_jacobian(theta, self.x)
        return self.y - fitted, np.moveaxis(jacobian, 0, 1)

    def take(self, rows: NDArray[np.bool_]) -> "_Problem":
        return _Problem(self.form, self.x, self.y[rows], self.weights[rows])


def _on_the_way(delta: float) -> list[float]:
    found: list[float] = []
    while (wider := delta / DELTA_FALL ** (len(found) + 1)) < DELTA_FROM:
        found.append(wider)
    return found[::-1]


def _descend_block(
    problem: _Problem, theta: Array, way: list[float], delta: float, tolerance: float, steps: int
) -> Descent:
    with np.errstate(all="ignore"):
        for wider in way:
            theta = _steps(problem, theta, wider, tolerance, STEPS_ON_THE_WAY).theta
        return _steps(problem, theta, delta, tolerance, steps)


def _steps(problem: _Problem, start: Array, delta: float, tolerance: float, limit: int) -> Descent:
    """Steps of (H + damping * M)^-1 gradient, where H takes the points within delta, whose loss is quadratic, and M the
    curvature of a quadratic that touches Huber's loss from above at each point: a step along M alone never climbs."""
    theta = start.copy()
    damping = np.full(theta.shape[1], DAMPING)
    residual, jacobian = problem.at(theta)
    value = _huber(residual, problem.weights, delta)
    ends = Descent(start.copy(), value.copy(), np.full_like(value, np.inf))
    rows = np.arange(theta.shape[1])  # of the block, still at work
    for step in range(limit + 1):
        gradient = -(jacobian @ (problem.weights * np.clip(residual, -delta, delta))[..., None])[..., 0]
        ends.theta[:, rows], ends.objective[rows] = theta, value
        ends.gradient_norm[rows] = np.abs(gradient).max(axis=1) / (delta * problem.weights.sum(axis=1))
        going = (ends.gradient_norm[rows] > tolerance) & (damping < DAMPING_RANGE[1])
        if step == limit or not going.any():
            break
        if not going.all():
            rows, problem, theta, damping = rows[going], problem.take(going), theta[:, going], damping[going]
            residual, jacobian, value, gradient = (a[going] for a in (residual, jacobian, value, gradient))
        tried = theta - _solve(jacobian, residual, problem.weights, delta, damping, gradient).T
        new_residual, new_jacobian = problem.at(tried)
        new_value = _huber(new_residual, problem.weights, delta)
        better = new_value <= value * (1 + ROUNDING)
        damping = np.maximum(damping * np.where(better, LOWER, RAISE), DAMPING_RANGE[0])
        theta[:, better], value[better] = tried[:, better], new_value[better]
        residual[better], jacobian[better] = new_residual[better], new_jacobian[better]
    return ends


def _solve(jacobian: Array, residual: Array, weights: Array, delta: float, damping: Array, gradient: Array) -> Array:
    size = np.abs(residual)
    curvature = weights * np.where(size <= delta, 1.0 + damping[:, None], damping[:, None] * delta / size)
    matrix = (jacobian * curvature[:, None]) @ jacobian.swapaxes(1, 2)
    # A parameter that hardly moves the loss (a floor near nothing) has next to no curvature, and its step would be
    # wild.
    diagonal = np.arange(matrix.shape[1])
    matrix[:, diagonal, diagonal] += (1e-12 + STILL * damping * curvature.sum(axis=1))[:, None]
    return np.asarray(np.linalg.solve(matrix, gradient[..., None])[..., 0])


def _huber(residual: Array, weights: Array, delta: float) -> Array:
    """(batch); infinite where the form overflows"""
    size = np.abs(residual)
    loss = (weights * np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))).sum(axis=1)
    return np.where(np.isfinite(loss), loss, np.inf)
