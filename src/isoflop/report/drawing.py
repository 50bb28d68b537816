"""A figure as shapes and words in pixels: axes with ticks, and paths that templates/figure.svg.jinja writes down."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis; without label it is a minor one."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Maps `low` to pixel `start` and `high` to pixel `end`, logarithmically if `log`; `title` with its unit."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    title: str

    def at(self, values: Array | float) -> Array:
        """Pixels."""
        low, high, v = (np.asarray(one, dtype=float) for one in (self.low, self.high, values))
        if self.log:
            low, high, v = np.log(low), np.log(high), np.log(v)
        return np.asarray(self.start + (v - low) / (high - low) * (self.end - self.start))

    def ticks(self, most: int, label: Callable[[float], str]) -> tuple[Tick, ...]:
        """Up to about `most` labelled ticks at round values, and on a log axis of decades minor ones between them.

        On an axis too short for decades, labels that are plain numbers get the same decimals.
        """
        decades = _decades(self.low, self.high) if self.log else []
        if len(decades) >= 2:
            every = math.ceil(len(decades) / most)
            labelled = {10.0**k for k in decades if (k - decades[0]) % every == 0}
            minor = [m * 10.0**k for k in range(decades[0] - 1, decades[-1] + 1) for m in range(1, 10)]
            inside = [v for v in minor if self.low <= v <= self.high] if every == 1 else []
            values = sorted(labelled.union(inside))
            return tuple(Tick(float(self.at(v)), label(v) if v in labelled else "") for v in values)
        if self.log and self.high / self.low > 4:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            values = [m * 10.0**k for k in powers for m in (1, 2, 5)]
            return tuple(Tick(float(self.at(v)), label(v)) for v in values if self.low <= v <= self.high)
        values = _round_values(self.low, self.high, most)
        return tuple(
            Tick(float(self.at(v)), text) for v, text in zip(values, _aligned([label(v) for v in values]), strict=True)
        )


@dataclass(frozen=True)
class Shape:
    """An SVG path. `css` are its classes, `hover` what a pointer on it shows, `shade` from 0 (smallest model) to 1."""

    d: str
    css: str
    hover: str = ""
    shade: float | None = None


@dataclass(frozen=True)
class Words:
    """A text beside a mark, `anchor` as in SVG."""

    x: float
    y: float
    text: str
    css: str = ""
    anchor: str = "start"


@dataclass(frozen=True)
class Panel:
    """A frame with its axes. `shapes` are cut at the frame, `marks` are not."""

    x: Axis
    y: Axis
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    marks: tuple[Shape, ...] = ()
    words: tuple[Words, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """One SVG. `name` is unique on the page; `title` and `description` are for those who cannot see it."""

    name: str
    width: int
    height: int
    title: str
    description: str
    panels: tuple[Panel, ...]


def line(x: Array, y: Array, *, closed: bool = False) -> str:
    """A path through points in pixels, to a tenth: relative steps keep it short."""
    tenths = np.round(np.stack([x, y], axis=1) * 10).astype(int)
    if len(tenths) == 0:
        return ""
    steps = np.diff(tenths, axis=0) / 10
    path = f"M{tenths[0][0] / 10:g} {tenths[0][1] / 10:g}"
    if len(steps):
        path += "l" + " ".join(f"{dx:g} {dy:g}" for dx, dy in steps)
    return path + "z" * closed


def band(x: Array, low: Array, high: Array) -> str:
    """The area between two lines over the same x."""
    return line(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]), closed=True)


def dot(x: float, y: float, radius: float) -> str:
    """A circle."""
    half = f"a{radius:g} {radius:g} 0 1 0"
    return f"M{x - radius:.1f} {y:.1f}{half} {2 * radius:g} 0{half} {-2 * radius:g} 0z"


def diamond(x: float, y: float, radius: float) -> str:
    """A square on its corner."""
    return f"M{x:.1f} {y - radius:.1f}l{radius:g} {radius:g} {-radius:g} {radius:g} {-radius:g} {-radius:g}z"


def whisker(x: float, low: float, high: float, cap: float) -> str:
    """An upright interval; with `cap` > 0 it has ends of that half-width."""
    ends = f"M{x - cap:.1f} {low:.1f}h{2 * cap:g}M{x - cap:.1f} {high:.1f}h{2 * cap:g}" if cap else ""
    return f"M{x:.1f} {low:.1f}V{high:.1f}{ends}"


def padded(values: Sequence[float], share: float, *, log: bool) -> tuple[float, float]:
    """The range of the values with `share` of it added at both ends; never empty."""
    low, high = min(values), max(values)
    if log:
        pad = max(math.log(high / low), 0.05) * share
        return low * math.exp(-pad), high * math.exp(pad)
    pad = max(high - low, 0.05 * abs(high), 1e-9) * share
    return low - pad, high + pad


def _decades(low: float, high: float) -> list[int]:
    return list(range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1))


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
