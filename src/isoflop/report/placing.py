"""A drawing in pixels at one width, as templates/figure.svg.jinja writes it down.

The page's script places the same shapes again at the width it finds, after zooming and on other axes: it reads them
back from the paths, which is why these are written to a hundredth of a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.report.drawing import GLYPHS, Drawing, Line, Mark, Panel, Words
from isoflop.report.scale import Array, Scale, Tick

WIDTH = 960
NARROW = 600
LEFT, RIGHT, TOP, BOTTOM, GAP = 58, 14, 32, 46, 42


@dataclass(frozen=True)
class PlacedPanel:
    """A panel's frame in pixels, y growing downwards, and what lies in it."""

    panel: Panel
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[Line, str], ...]
    marks: tuple[tuple[Mark, float, float, str], ...]
    words: tuple[tuple[Words, float, float, float, str], ...]


def place(drawing: Drawing, width: int = WIDTH) -> tuple[PlacedPanel, ...]:
    """The panels of the drawing at a width in pixels."""
    height = drawing.narrow_height if width < NARROW else drawing.height
    free = height - TOP - BOTTOM - GAP * (len(drawing.panels) - 1)
    total = sum(panel.share for panel in drawing.panels)
    placed, top = [], float(TOP)
    for panel in drawing.panels:
        bottom = top + free * panel.share / total
        placed.append(_place(panel, LEFT, width - RIGHT, top, bottom))
        top = bottom + GAP
    return tuple(placed)


def path(x: Array, y: Array, *, closed: bool = False) -> str:
    """A path through points in pixels; relative steps keep it short."""
    if len(x) == 0:
        return ""
    hundredths = np.round(np.stack([x, y], axis=1) * 100).astype(int)
    steps = np.diff(hundredths, axis=0) / 100
    begin = f"M{hundredths[0][0] / 100:.2f} {hundredths[0][1] / 100:.2f}"
    body = "l" + " ".join(f"{_short(dx)} {_short(dy)}" for dx, dy in steps.tolist()) if len(steps) else ""
    return begin + body + "z" * closed


def most_ticks(pixels: float) -> tuple[int, int]:
    """About how many labelled ticks an axis of so many pixels has room for, across and upwards."""
    return max(3, min(8, int(pixels // 95))), max(3, min(6, int(pixels // 34)))


def _place(panel: Panel, left: float, right: float, top: float, bottom: float) -> PlacedPanel:
    def x(value: Array | float) -> Array:
        return panel.x.place(value, left, right)

    def y(value: Array | float) -> Array:
        return panel.y.place(value, bottom, top)

    return PlacedPanel(
        panel=panel,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=_ticks(panel.x, panel.x.ticks(most_ticks(right - left)[0]), left, right),
        y_ticks=_ticks(panel.y, panel.y.ticks(most_ticks(bottom - top)[1]), bottom, top),
        lines=tuple((line, path(x(line.x), y(line.y), closed=line.closed)) for line in panel.lines),
        marks=tuple((mark, float(x(mark.x)), float(y(mark.y)), GLYPHS[mark.glyph]) for mark in panel.marks),
        words=_words([(words, float(x(words.x)), float(y(words.y))) for words in panel.words], left, right),
    )


def _ticks(scale: Scale, ticks: Sequence[Tick], start: float, end: float) -> tuple[tuple[float, str], ...]:
    return tuple((float(scale.place(tick.at, start, end)), tick.label) for tick in ticks)


def _words(
    placed: Sequence[tuple[Words, float, float]], left: float, right: float
) -> tuple[tuple[Words, float, float, float, str], ...]:
    """With each its place, dx, and how it is shown: "start" or "end" as its anchor, "off" where it would lie on an
    earlier one."""
    shown: list[tuple[Words, float, float, float, str]] = []
    taken: list[tuple[float, float, float]] = []
    for words, x, y in placed:
        length = sum(12.5 if letter in "MWmw@%" or letter > "~" else 7.2 for letter in words.text)
        inward = x + words.dx + length > right
        begin = x - words.dx - length if inward else x + words.dx
        free = all(begin > other + n + 4 or begin + length < other - 4 or abs(y - h) > 15 for other, n, h in taken)
        free = free and begin > left - LEFT
        if free:
            taken.append((begin, length, y))
        anchor = "end" if inward else "start"
        shown.append((words, x, y, -words.dx if inward else words.dx, anchor if free else f"{anchor} off"))
    return tuple(shown)


def _short(value: float) -> str:
    """0.25 as .25, 3.0 as 3: a page of long runs is mostly such numbers."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
