"""Accuracy as a sigmoid of something that falls as models grow, with what few runs leave open of it."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from isoflop.law.forms import Array
from isoflop.law.intervals import systematic

# Where the sigmoid may end: shares of the way from chance to one, and of chance to which the smallest models may sink
# (they choose what is likely, and wrong answers are made to be). Half of what is believed beforehand is chance itself.
CEILINGS = np.linspace(0.1, 1.0, 13)
FLOORS, FLOOR_BELIEF = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]), np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
# Noise of one run's accuracy; beforehand 1 %, within a factor of 2.
NOISE = np.geomspace(1e-3, 0.1, 12)
NOISE_PRIOR = (1e-2, 0.7)
# Standard deviations believed beforehand: of the middle, in spreads of the data from their best end, and of the log of
# the steepness, around one a spread.
MIDDLE_PRIOR, STEEPNESS_PRIOR = 4.0, 1.5
STEPS = 60


@dataclass(frozen=True)
class Sigmoid:
    """chance + (ceiling - chance) / (1 + exp(steepness (z - middle))): z falls as models grow. `chance` is what the
    smallest models reach: guessing, or less."""

    chance: float
    ceiling: float
    middle: float
    steepness: float

    def at(self, z: Array) -> Array:
        return np.asarray(self.chance + (self.ceiling - self.chance) * expit(-self.steepness * (z - self.middle)))


@dataclass(frozen=True)
class SigmoidDraws:
    """Equally likely sigmoids, and the noise of a new run under each: arrays (draws); `best` is the most likely one."""

    floor: Array
    ceiling: Array
    middle: Array
    steepness: Array
    noise: Array
    best: Sigmoid

    def at(self, z: Array) -> Array:
        """(draws, points) for z (draws, points) or (points)"""
        fall = expit(-self.steepness[:, None] * (z - self.middle[:, None]))
        return np.asarray(self.floor[:, None] + (self.ceiling - self.floor)[:, None] * fall)


def sigmoid_draws(z: Array, accuracy: Array, chance: float, rng: np.random.Generator, n: int) -> SigmoidDraws:
    """n draws given accuracies (points) at z (points).

    Both ends of the sigmoid and the noise lie on a grid; at each pair of ends middle and steepness are fitted, all
    pairs at once, and drawn from the Gaussian at that optimum (Laplace's method).
    """
    scale = float(np.std(z)) or 1.0
    origin = float(z.min())
    x = (z - origin) / scale
    floor, ceiling = (
        axis.ravel()
        for axis in np.meshgrid(chance * FLOORS if chance else np.zeros(1), chance + (1 - chance) * CEILINGS)
    )
    believed = np.tile(np.log(FLOOR_BELIEF), len(CEILINGS)) if chance else np.zeros(len(ceiling))
    theta, residual, jacobian = _fit(x, accuracy, floor, ceiling)

    squares, prior = (residual**2).sum(axis=1), _prior(theta)
    per_noise = 1.0 / NOISE**2
    curvature = np.einsum("cip,cjp->cij", jacobian, jacobian)[:, None] * per_noise[:, None, None] + _PRECISION
    log_posterior = (
        believed[:, None]
        - 0.5 * (squares[:, None] * per_noise + prior[:, None])
        - len(z) * np.log(NOISE)
        - 0.5 * (np.log(NOISE / NOISE_PRIOR[0]) / NOISE_PRIOR[1]) ** 2
        - 0.5 * np.linalg.slogdet(curvature)[1]
    )
    weight = np.exp(log_posterior - log_posterior.max())
    cell, noise = np.unravel_index(systematic(weight.ravel(), n, rng), weight.shape)
    spread = np.linalg.cholesky(np.linalg.inv(curvature[cell, noise]))
    drawn = theta[cell] + np.einsum("nij,nj->ni", spread, rng.standard_normal((n, 2)))
    likely = int(np.argmax(weight.sum(axis=1)))
    middle, steepness = origin + scale * drawn[:, 0], np.exp(drawn[:, 1]) / scale
    best = Sigmoid(
        float(floor[likely]),
        float(ceiling[likely]),
        float(origin + scale * theta[likely, 0]),
        float(np.exp(theta[likely, 1]) / scale),
    )
    return SigmoidDraws(floor[cell], ceiling[cell], middle, steepness, NOISE[noise], best)


_PRECISION = np.diag([MIDDLE_PRIOR**-2, STEEPNESS_PRIOR**-2])


def _prior(theta: Array) -> Array:
    """(cells): squares of what is believed of theta beforehand"""
    return np.asarray(np.einsum("ci,ij,cj->c", theta, _PRECISION, theta))


def _fit(x: Array, accuracy: Array, floor: Array, ceiling: Array) -> tuple[Array, Array, Array]:
    """Middle and log steepness (cells, 2), residuals (cells, points) and derivatives (cells, 2, points) at the best fit
    of each pair of ends under the noise believed beforehand, by Levenberg and Marquardt's method from two starts."""
    n = len(floor)
    floor, ceiling = np.tile(floor, 2), np.tile(ceiling, 2)
    precision = NOISE_PRIOR[0] ** -2

    def at(theta: Array) -> tuple[Array, Array, Array]:
        steep = np.exp(theta[:, 1:])
        fall = expit(-steep * (x - theta[:, :1]))
        height = (ceiling - floor)[:, None]
        slope = height * fall * (1 - fall) * steep
        residual = accuracy - floor[:, None] - height * fall
        jacobian = np.stack([slope, -slope * (x - theta[:, :1])], axis=1)
        return residual, jacobian, precision * (residual**2).sum(axis=1) + _prior(theta)

    theta = np.concatenate([np.tile([start, 0.0], (n, 1)) for start in (0.0, float(np.median(x)))])
    residual, jacobian, value = at(theta)
    damping = np.full(2 * n, 1e-2)
    for _ in range(STEPS):
        matrix = precision * np.einsum("cip,cjp->cij", jacobian, jacobian) + _PRECISION
        gradient = precision * np.einsum("cip,cp->ci", jacobian, residual) - theta @ _PRECISION
        matrix = matrix * (1 + damping[:, None, None] * np.eye(2))
        tried = theta + np.linalg.solve(matrix, gradient[..., None])[..., 0]
        tried[:, 1] = np.clip(tried[:, 1], -6.0, 6.0)
        new = at(tried)
        better = new[2] <= value
        theta[better] = tried[better]
        for old, fresh in zip((residual, jacobian, value), new, strict=True):
            old[better] = fresh[better]
        damping = np.clip(damping * np.where(better, 0.2, 6.0), 1e-9, 1e9)
    first = value[:n] <= value[n:]
    kept = np.where(first, np.arange(n), np.arange(n) + n)
    return theta[kept], residual[kept], jacobian[kept]
