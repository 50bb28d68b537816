"""Axes: a range in data units, and ticks at round values."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.report.numbers import MINUS, bytes_tick, plain, power_of_ten, short_count

Array = NDArray[np.float64]

# How an axis labels its ticks. templates/scale.js knows the same names and writes the same labels.
LABELS: dict[str, Callable[[float], str]] = {
    "count": short_count,
    "flops": power_of_ten,
    "loss": plain,
    "plain": plain,
    "bytes": bytes_tick,
    "signed": lambda value: f"{value:+.3g}".replace("-", MINUS) if value else "0",
}


@dataclass(frozen=True)
class Tick:
    """A mark on an axis at a value; without label it is a minor one."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """From `low` to `high` in data units, logarithmic if `log`. `title` has the unit, `labels` is a key of `LABELS`, or
    "none" for an axis without ticks.

    `unit` follows a value that is told. `base` is 2 where the values are numbers of systems: a log axis then has ticks
    at powers of two.
    """

    low: float
    high: float
    log: bool
    title: str
    labels: str = "plain"
    unit: str = ""
    base: int = 10

    def place(self, values: Array | float, start: float, end: float) -> Array:
        """Pixels: `low` is at `start`, `high` at `end`."""
        low, high, v = (np.asarray(one, dtype=float) for one in (self.low, self.high, values))
        if self.log:
            low, high, v = np.log(low), np.log(high), np.log(v)
        return np.asarray(start + (v - low) / (high - low) * (end - start))

    def ticks(self, most: int) -> tuple[Tick, ...]:
        """Up to about `most` labelled ticks at round values, and on a log axis of decades minor ones between them.

        On an axis too short for decades, labels that are plain numbers get the same decimals.
        """
        if self.labels == "none":
            return ()
        label = LABELS[self.labels]
        powers = _powers(self.low, self.high, self.base) if self.log else []
        if len(powers) >= 2:
            every = math.ceil(len(powers) / most)
            labelled = {float(self.base) ** k for k in powers if (k - powers[0]) % every == 0}
            between = range(1, 10) if self.base == 10 else range(1, 2)
            minor = [m * float(self.base) ** k for k in range(powers[0] - 1, powers[-1] + 1) for m in between]
            inside = [v for v in minor if self.low <= v <= self.high] if every == 1 else []
            return tuple(Tick(v, label(v) if v in labelled else "") for v in sorted(labelled.union(inside)))
        if self.log and self.high / self.low > 4:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
                values = [v for k in exponents for m in steps if self.low <= (v := m * 10.0**k) <= self.high]
                if len(values) >= 3:
                    break
            return tuple(Tick(v, label(v)) for v in values)
        values = _round_values(self.low, self.high, most)
        return tuple(Tick(v, text) for v, text in zip(values, _aligned([label(v) for v in values]), strict=True))


def padded(values: Iterable[float], share: float, *, log: bool) -> tuple[float, float]:
    """The range of the values with `share` of it added at both ends; never empty."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        pad = max(math.log(high / low), 0.05) * share
        return low * math.exp(-pad), high * math.exp(pad)
    pad = max(high - low, 0.05 * abs(high), 1e-9) * share
    return low - pad, high + pad


def _powers(low: float, high: float, base: int) -> list[int]:
    first, last = math.log(low) / math.log(base), math.log(high) / math.log(base)
    return list(range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1))


def _round_values(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _aligned(labels: list[str]) -> list[str]:
    """3.3, 3.32 becomes 3.30, 3.32; labels that are no plain decimals stay."""
    if not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", label) for label in labels):
        return labels
    decimals = max((len(label.partition(".")[2]) for label in labels), default=0)
    return [f"{float(label):.{decimals}f}" for label in labels]
