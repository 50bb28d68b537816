"""Farseer's form as active-sl is given it: nine published parameters, each within bounds (its laws.py, @e0a58ff)."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from isoflop.law.forms import Array, Named

# Parameter, lowest, highest, in the words of Li et al. 2025: around the authors' fit of all runs (a3 -0.0625, gamma
# 0.13, b3 0.128, a2 230.7, beta -0.1729, b2 -1.54, a1 -1.67, alpha 0.0459, b1 3.13), the powers' signs among them.
BOUNDS = {
    "a3": (-1.0, 0.3),
    "gamma": (0.01, 0.5),
    "b3": (-1.0, 1.0),
    "a2": (10.0, 1000.0),
    "beta": (-0.6, -0.01),
    "b2": (-5.0, 1.0),
    "a1": (-5.0, 1.0),
    "alpha": (0.001, 0.25),
    "b1": (1.0, 6.0),
}
LOW, HIGH = np.array(list(BOUNDS.values())).T
# A parameter that is above 0 moves in its log, as there.
IN_LOG = LOW > 0
FROM, TO = (np.where(IN_LOG, np.log(np.where(IN_LOG, end, 1.0)), end) for end in (LOW, HIGH))
N_STARTS = 64
# Of any log of a term, as there.
LARGEST = 50.0


@dataclass(frozen=True)
class FarseerWithin:
    """L(N, D) = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1), a `Form`; theta is the logit of
    each parameter's place between its bounds."""

    name: str = "farseer"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def n_parameters(self) -> int:
        return 9

    def centre(self, x: Array) -> Array:
        return np.zeros(2)

    def log_loss(self, theta: Array, x: Array) -> Array:
        return self.log_loss_and_jacobian(theta, x)[0]

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        value, slope = _unsquashed(theta[..., None])
        grown, rows = [], []
        for scale, power, constant in value.reshape(3, 3, *value.shape[1:]):
            risen = np.exp(power * x[0])
            grown.append(np.clip(scale * risen + constant, -LARGEST, LARGEST))
            rows.append([risen, scale * risen * x[0], np.ones_like(risen)])
        fall = np.exp(grown[2]) * x[1]
        short = grown[1] - fall
        total = np.logaddexp(grown[0], short)
        shares = np.exp(grown[0] - total), np.exp(short - total), -fall * np.exp(short - total)
        jacobian = [share * row for share, of_one in zip(shares, rows, strict=True) for row in of_one]
        return total, np.stack(np.broadcast_arrays(*jacobian)) * slope

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """Anywhere between the bounds, as there."""
        rng = np.random.default_rng(0)
        return list(_logit(rng.uniform(0.01, 0.99, (N_STARTS, 9))))

    def shifted(self, theta: Array, by: Array) -> Array:
        if np.any(by):
            raise ValueError("inputs of bounded parameters are not centred")
        return theta

    def named(self, theta: Array) -> Named:
        return dict(zip(BOUNDS, map(float, _unsquashed(theta)[0]), strict=True))

    def equation(self, theta: Array) -> str:
        return str(self.named(theta))


def _unsquashed(theta: Array) -> tuple[Array, Array]:
    """The published parameters (9, ...), and their derivative by theta."""
    low, high, in_log = (column.reshape(9, *[1] * (theta.ndim - 1)) for column in (FROM, TO, IN_LOG))
    share = expit(theta)
    value, slope = low + (high - low) * share, (high - low) * share * (1.0 - share)
    risen = np.exp(np.where(in_log, value, 0.0))
    return np.where(in_log, risen, value), np.where(in_log, risen * slope, slope)


def _logit(share: Array) -> Array:
    return np.log(share / (1.0 - share))
