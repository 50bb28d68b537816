"""A figure in data units: lines, marks and words in panels. `placing` puts it into pixels, the page's script again."""

from dataclasses import dataclass

import numpy as np

from isoflop.report.scale import Array, Scale

# Paths around the origin: what tells series apart for those who cannot by colour.
GLYPHS = {
    "dot": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "diamond": "M0-6.5l6.5 6.5-6.5 6.5-6.5-6.5z",
    "square": "M-4-4h8v8h-8z",
    "up": "M0-5.5l5 9h-10z",
    "down": "M0 5.5l5-9h-10z",
    "cross": "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    "saltire": "M-3.2-5.3l3.2 3.2 3.2-3.2 2.1 2.1-3.2 3.2 3.2 3.2-2.1 2.1-3.2-3.2-3.2 3.2-2.1-2.1 3.2-3.2-3.2-3.2z",
    "hexagon": "M-5 0l2.5-4.3h5l2.5 4.3-2.5 4.3h-5z",
    "median": "M-11 0h22",
    "cap": "M-7 0h14",
}


@dataclass(frozen=True)
class Line:
    """Points joined in order, `closed` to an area. `label` names it to a pointer, `series` is what a legend toggles.

    A line that cannot be pointed at (a band, a faint background) is `silent`.
    """

    x: Array
    y: Array
    css: str
    label: str = ""
    series: str = ""
    closed: bool = False
    silent: bool = False


@dataclass(frozen=True)
class Mark:
    """A glyph at a point; `told` is its sentence."""

    x: float
    y: float
    glyph: str
    css: str
    told: str
    series: str = ""


@dataclass(frozen=True)
class Words:
    """A text so many pixels beside a point, on its other side near the frame's edge; left out where it would lie on one
    that comes before it."""

    x: float
    y: float
    text: str
    css: str = ""
    dx: float = 6
    dy: float = -9
    series: str = ""


@dataclass(frozen=True)
class Panel:
    """A frame with its axes, `share` of the figure's height. Lines are cut at the frame, marks are not."""

    x: Scale
    y: Scale
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    words: tuple[Words, ...] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """Panels one below the other over the same x axis; heights in pixels on a desk and on a phone. One that is `still`
    has no buttons to zoom.

    `name` is unique on the page; `title` and `description` are for those who cannot see it.
    """

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    height: int
    narrow_height: int
    still: bool = False


def band(x: Array, low: Array, high: Array, css: str, label: str, series: str = "") -> Line:
    """The area between two lines over the same x."""
    return Line(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]), css, label, series, True, silent=True)
