"""Laws of size and tokens: one formula, of which the literature's forms are cases."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from isoflop.law.forms.form import Array, Named, exp_or_none, floor_of, shown

EXPONENTS = (0.1, 0.25, 0.4, 0.6, 0.9)


@dataclass(frozen=True)
class JointForm:
    """L(N, D) = E + (A' / N^(alpha/k) + B' / D^(beta/k))^k.

    Far from the bend one term rules: A / N^alpha where size is short, B / D^beta where tokens are, with ln A = k ln A';
    k says how sharply one gives way to the other (0: the larger of the two; 1: their sum). theta = (a, alpha, b[, beta]
    [, ln k][, ln E]) with a = ln A, b = ln B, which a change of k leaves where they are.

    chinchilla: k = 1 (Hoffmann et al. 2022, eq. 2 and 10)
    overtraining: k = 1, alpha = beta (Gadre et al. 2024, eq. 4: E + (a M^eta + b M^-eta) C^-eta with M = D / N and
        alpha = 2 eta is that)
    coupled: k free (Videau et al. 2026, "Skaling": E + A (N^-alpha + R D^-beta)^k)
    kaplan: E = 0, k = beta (Kaplan et al. 2020, eq. 1.5: ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D)
    """

    name: str
    coupling: str = "sum"
    tied: bool = False
    floor: bool = True
    inputs: tuple[str, ...] = ("params", "tokens")

    @property
    def n_parameters(self) -> int:
        return 4 - self.tied + (self.coupling == "free") + self.floor

    def centre(self, x: Array) -> Array:
        return np.asarray(x.mean(axis=1))

    def log_loss(self, theta: Array, x: Array) -> Array:
        _, _, log_floor, k, u, v = self._parts(theta, x)
        return np.asarray(np.logaddexp(log_floor, _soft_maximum(k, u, v)))

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        _, beta, log_floor, k, u, v = self._parts(theta, x)
        above = _soft_maximum(k, u, v)
        total = np.logaddexp(log_floor, above)
        share = np.exp(above - total)
        by_v = share / (1.0 + np.exp(np.clip((u - v) / k, -700.0, 700.0)))
        by_u = share - by_v
        by_log_k = share * above - by_u * u - by_v * v
        by_alpha, by_beta = -by_u * x[0], -by_v * x[1]
        if self.coupling == "beta":
            by_beta = by_beta + by_log_k / beta
        rows = [by_u, by_alpha + by_beta, by_v] if self.tied else [by_u, by_alpha, by_v, by_beta]
        rows += [by_log_k] * (self.coupling == "free") + [1.0 - share] * self.floor
        return total, np.stack(rows)

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        """For each pair of exponents the best coefficients of the sum, by non-negative least squares."""
        loss = np.exp(y)
        scale = np.sqrt(weights) / loss
        found = []
        for alpha in EXPONENTS:
            for beta in (alpha,) if self.tied else EXPONENTS:
                columns = np.stack([np.exp(-alpha * x[0]), np.exp(-beta * x[1]), np.ones_like(loss)], axis=1)
                columns = columns[:, : 2 + self.floor]
                least = 1e-3 * loss.min()
                a, b, *e = np.log(np.maximum(nnls(columns * scale[:, None], loss * scale)[0], least))
                head = [a, alpha, b] if self.tied else [a, alpha, b, beta]
                found += [np.array([*head, *log_k, *e]) for log_k in self._log_ks()]
        return found

    def shifted(self, theta: Array, by: Array) -> Array:
        moved = theta.copy()
        moved[0] += theta[1] * by[0]
        moved[2] += theta[1 if self.tied else 3] * by[1]
        return moved

    def named(self, theta: Array) -> Named:
        alpha, beta, log_floor, k = (float(part[..., 0]) for part in self._constants(theta))
        found: Named = {"E": floor_of(log_floor)} if self.floor else {}
        a, b = float(theta[0]), float(theta[2])
        if self.coupling == "sum":
            return {**found, "A": exp_or_none(a), "B": exp_or_none(b), "alpha": alpha, "beta": beta}
        if self.coupling == "beta":
            scales = exp_or_none(a / alpha), exp_or_none(b / beta)
            return {"Nc": scales[0], "Dc": scales[1], "alpha": alpha, "beta": beta}
        inner = {"A": exp_or_none(a / k), "B": exp_or_none(b / k), "alpha": alpha / k, "beta": beta / k}
        return {**found, **inner, "k": k}

    def equation(self, theta: Array) -> str:
        text = {
            "sum": "L(N, D) = {E} + {A} / N^{alpha} + {B} / D^{beta}",
            "free": "L(N, D) = {E} + ({A} / N^{alpha} + {B} / D^{beta})^{k}",
            "beta": "L(N, D) = (({Nc} / N)^({alpha} / {beta}) + {Dc} / D)^{beta}",
        }[self.coupling]
        return text.format(**shown(self.named(theta)))

    @property
    def _free(self) -> bool:
        return self.coupling == "free"

    def _log_ks(self) -> list[list[float]]:
        return [[0.0], [-1.0]] if self._free else [[]]

    def _constants(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """alpha, beta, ln E and k, each (..., 1)."""
        theta = theta[..., None]
        alpha = theta[1]
        beta = alpha if self.tied else theta[3]
        log_floor = theta[-1] if self.floor else np.full_like(alpha, -np.inf)
        if self.coupling == "beta":
            k = np.maximum(beta, 1e-3)
        else:
            k = np.exp(theta[4 - self.tied]) if self._free else np.ones_like(alpha)
        return alpha, beta, log_floor, k

    def _parts(self, theta: Array, x: Array) -> tuple[Array, ...]:
        """alpha, beta, ln E, k, and the logs of the two terms alone, u and v (..., points)."""
        alpha, beta, log_floor, k = self._constants(theta)
        return alpha, beta, log_floor, k, theta[0][..., None] - alpha * x[0], theta[2][..., None] - beta * x[1]


def _soft_maximum(k: Array, u: Array, v: Array) -> Array:
    """k ln(exp(u / k) + exp(v / k))"""
    return np.asarray(np.maximum(u, v) + k * np.log1p(np.exp(-np.abs(u - v) / k)))
