"""Laws of compute alone, for ladders at one ratio of tokens to parameters."""

import math
from dataclasses import dataclass

import numpy as np

from isoflop.law.forms.form import NOTHING, Array, Named, exp_or_none, shown


@dataclass(frozen=True)
class ComputeForm:
    """A line in ln C between a floor E and a ceiling Lmax: (L - E) / (1 - L / Lmax) = exp(c - p ln C).

    Without floor and ceiling a power law; with a floor that of Dey et al. 2023, eq. 1; with a ceiling
    L = Lmax / (1 + (C / C0)^p); with both L = E + (Lmax - E) / (1 + (C / C0)^p). theta = (c, p[, ln E][, -ln Lmax]).

    At tiny compute losses saturate towards that of guessing by word frequency and bend DOWN in log-log, which no floor
    can follow; hence the ceiling. The forms with a ceiling are local: good for a few times the compute of the data.
    """

    name: str
    floor: bool
    ceiling: bool
    inputs: tuple[str, ...] = ("flops",)

    @property
    def n_parameters(self) -> int:
        return 2 + self.floor + self.ceiling

    def centre(self, x: Array) -> Array:
        return np.asarray(x.mean(axis=1))

    def log_loss(self, theta: Array, x: Array) -> Array:
        line, floor, ceiling = self._parts(theta, x)
        return np.asarray(np.logaddexp(line, floor) - np.logaddexp(0.0, line + ceiling))

    def log_loss_and_jacobian(self, theta: Array, x: Array) -> tuple[Array, Array]:
        line, floor, ceiling = self._parts(theta, x)
        above, below = np.logaddexp(line, floor), np.logaddexp(0.0, line + ceiling)
        floor_share, ceiling_share = np.exp(floor - above), np.exp(line + ceiling - below)
        by_line = 1.0 - floor_share - ceiling_share
        rows = [by_line, -by_line * x[0]] + [floor_share] * self.floor + [-ceiling_share] * self.ceiling
        return above - below, np.stack(rows)

    def starts(self, x: Array, y: Array, weights: Array) -> list[Array]:
        loss = np.exp(y)
        found = []
        bends = (0.01, 0.35, 0.7) if self.floor and self.ceiling else (0.01, 0.2, 0.4, 0.6, 0.8)
        for floor in bends if self.floor else (0.0,):
            for ceiling in bends if self.ceiling else (0.0,):
                line = np.log(loss - floor * loss.min()) - np.log(1.0 - ceiling * loss / loss.max())
                slope, c = np.polyfit(x[0], line, 1, w=np.sqrt(weights))
                found.append(self.of_line(c, -slope, np.array(floor * loss.min()), np.array(ceiling / loss.max())))
        return found

    def of_line(self, c: Array, p: Array, floor: Array, inverse_ceiling: Array) -> Array:
        """theta (n_parameters, ...) from the line and the values of E and 1 / Lmax."""
        bends = [floor] * self.floor + [inverse_ceiling] * self.ceiling
        return np.stack([np.asarray(c), np.asarray(p), *(np.log(np.maximum(bend, 1e-12)) for bend in bends)])

    def shifted(self, theta: Array, by: Array) -> Array:
        moved = theta.copy()
        moved[0] += theta[1] * by[0]
        return moved

    def named(self, theta: Array) -> Named:
        c, p = float(theta[0]), float(theta[1])
        inverse_ceiling = math.exp(theta[-1]) if self.ceiling else 0.0
        ceiling = 1.0 / inverse_ceiling if inverse_ceiling > NOTHING else None
        scale = c - math.log(ceiling) if ceiling else c
        found: Named = {"C0": exp_or_none(scale / p) if p else None, "a": p}
        if self.ceiling:
            found["Lmax"] = ceiling
        if self.floor or not self.ceiling:
            floor = math.exp(theta[2]) if self.floor else 0.0
            found["E"] = floor if floor > NOTHING else 0.0
        return found

    def equation(self, theta: Array) -> str:
        text = {
            (False, False): "L(C) = (C / {C0})^-{a}",
            (True, False): "L(C) = (C / {C0})^-{a} + {E}",
            (False, True): "L(C) = {Lmax} / (1 + (C / {C0})^{a})",
            (True, True): "L(C) = {E} + ({Lmax} - {E}) / (1 + (C / {C0})^{a})",
        }[self.floor, self.ceiling and self.named(theta)["Lmax"] is not None]
        # Losses that rise with compute have a negative exponent: no two signs in a row.
        return text.format(**shown(self.named(theta))).replace("^--", "^")

    def _parts(self, theta: Array, x: Array) -> tuple[Array, Array, Array]:
        """ln of the line (..., points), and ln E and -ln Lmax broadcast against it."""
        line = theta[0][..., None] - theta[1][..., None] * x[0]
        nothing = np.full((1,), -np.inf)
        return line, theta[2][..., None] if self.floor else nothing, theta[-1][..., None] if self.ceiling else nothing
