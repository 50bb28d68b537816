"""A law of size and tokens whose token term changes with size: Farseer's nine parameters."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from isoflop.law.forms.form import Array, Named, floor_of, shown

# A power of N is no larger, either way: twice the largest published one (0.17). Larger ones that few runs suggest grow
# as the exponential of an exponential where the law is followed to other sizes.
LARGEST_POWER = 0.35
START_EXPONENTS = (0.2, 0.35, 0.6)
# No log of a loss, of a scale or of an exponent is beyond it.
LARGEST = 200.0
# Below this a series is exact to double precision, and the difference of exponentials is not.
SMALL = 1e-2


@dataclass(frozen=True)
class FarseerForm:
    """L(N, D) = exp(e(N)) + exp(b(N)) D^-exp(c(N)), with each of e, b and c a scale times a power of N plus a constant
    (Li et al. 2025, arXiv 2506.10972: exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)).

    At a size the loss is Chinchilla's in tokens; floor, scale and exponent move with the size. theta is (value, slope,
    p) of e, of b and of c, at ln N = 0: value + slope (N^power - 1) / power with power = LARGEST_POWER tanh(p), so that
    p = 0 is a power law of N.

    The law is not the same in other units of D: its b is that of one token, as published, and D is never centred.
    """

    name: str = "farseer"
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def n_parameters(self) -> int:
        return 9

    def centre(self, x: Array) -> Array:
        return np.array([float(x[0].mean()), 0.0])

    def log_loss(self, theta: Array, x: Array) -> Array:
        floor, log_scale, log_exponent = (_grown(theta[k : k + 3], x[0])[0] for k in (0, 3, 6))
        return _sum(floor, log_scale - np.exp(log_exponent) * x[1])[0]

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        grown = [_grown(theta[k : k + 3], x[0]) for k in (0, 3, 6)]
        fall = np.exp(grown[2][0]) * x[1]
        total, floor_share = _sum(grown[0][0], grown[1][0] - fall)
        short_share = 1.0 - floor_share
        rows = np.empty((9, *total.shape))
        for k, ((_, by_slope, by_p), share) in enumerate(
            zip(grown, (floor_share, short_share, -fall * short_share), strict=True)
        ):
            rows[3 * k], rows[3 * k + 1], rows[3 * k + 2] = share, share * by_slope, share * by_p
        return total, rows

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """Chinchilla's form with pairs of exponents, its floor and size term as a power that flattens."""
        loss, middle = np.exp(y), float(x[1].mean())
        scale = np.sqrt(weights) / loss
        found = []
        for alpha in START_EXPONENTS:
            for beta in START_EXPONENTS:
                columns = np.stack([np.ones_like(loss), np.exp(-alpha * x[0]), np.exp(-beta * (x[1] - middle))], axis=1)
                e, a, b = np.maximum(nnls(columns * scale[:, None], loss * scale)[0], 1e-3 * loss.min())
                slope, power = -alpha * a / (e + a), -alpha * e / (e + a)
                bent = np.arctanh(np.clip(power / LARGEST_POWER, -0.9, 0.9))
                of_tokens = np.log(b) + beta * middle, 0.0, 0.0, np.log(beta), 0.0, 0.0
                found.append(np.array([np.log(e + a), slope, bent, *of_tokens]))
        return found

    def shifted(self, theta: Array, by: Array) -> Array:
        moved = theta.copy()
        for k in (0, 3, 6):
            value, slope, p = theta[k : k + 3]
            power = LARGEST_POWER * np.tanh(p)
            # What stood at ln N = -by stands at 0.
            moved[k] = value - slope * by[0] * _growth(np.atleast_1d(-power * by[0]))[0].reshape(np.shape(value))
            moved[k + 1] = slope * np.exp(-power * by[0])
        return moved

    def named(self, theta: Array) -> Named:
        """As published, None where a power of nothing makes scale and constant infinite; and E, where the loss ends for
        infinite size and tokens: at nothing if size goes on lowering the floor."""
        value, slope, p = (float(one) for one in theta[:3])
        ends = value - slope / (LARGEST_POWER * math.tanh(p)) if p < 0 else -math.copysign(math.inf, -slope)
        found: Named = {"E": floor_of(ends) if ends < LARGEST else None}
        for k, scale, power, constant in ((0, "a3", "gamma", "b3"), (3, "a2", "beta", "b2"), (6, "a1", "alpha", "b1")):
            value, slope, p = (float(one) for one in theta[k : k + 3])
            exponent = LARGEST_POWER * math.tanh(p)
            steep = slope / exponent if exponent else math.inf
            found |= {scale: steep if math.isfinite(steep) else None, power: exponent}
            found[constant] = value - steep if math.isfinite(steep) else None
        return found

    def equation(self, theta: Array) -> str:
        text = "L(N, D) = exp({a3} N^{gamma} + {b3}) + exp({a2} N^{beta} + {b2}) D^-exp({a1} N^{alpha} + {b1})"
        return text.format(**shown(self.named(theta))).replace("+ -", "- ")


def _sum(floor: Array, short: Array) -> tuple[Array, Array]:
    """The log of the sum of two terms, given theirs, and the first's share of it"""
    apart = floor - short
    less = np.exp(-np.abs(apart))
    larger = 1.0 / (1.0 + less)
    return np.maximum(floor, short) - np.log(larger), np.where(apart > 0, larger, 1.0 - larger)


def _growth(u: Array) -> tuple[Array, Array]:
    """(exp(u) - 1) / u, and its derivative"""
    with np.errstate(divide="ignore", invalid="ignore"):
        risen = np.exp(u)
        growth = (risen - 1.0) / u
        bend = (risen - growth) / u
    small = np.abs(u) < SMALL
    if small.any():
        v = u[small]
        growth[small] = 1 + v / 2 * (1 + v / 3 * (1 + v / 4 * (1 + v / 5 * (1 + v / 6))))
        bend[small] = 0.5 + v * (1 / 3 + v * (1 / 8 + v * (1 / 30 + v * (1 / 144 + v / 840))))
    return growth, bend


def _grown(theta: Array, log_size: Array) -> tuple[Array, Array, Array]:
    """(..., points), and its derivatives by slope and by p; that by value is one"""
    value, slope, p = theta[..., None]
    bounded = np.tanh(p)
    growth, bend = _growth(np.asarray(LARGEST_POWER * bounded * log_size))
    by_slope = log_size * growth
    # Draws from nonsense, followed far, overflow.
    grown = np.clip(value + slope * by_slope, -LARGEST, LARGEST)
    return grown, by_slope, (slope * LARGEST_POWER * (1 - bounded**2)) * (log_size**2 * bend)
