"""Figures of a run that goes on: every member's loss, and one member's beside the band that others lead to expect."""

from dataclasses import replace
from typing import Any

import numpy as np

from isoflop.report.drawing import Line, band
from isoflop.report.figure import Figure
from isoflop.report.loss_curves import draw_loss_curves
from isoflop.report.page import colour, shares, size_keys
from isoflop.report.run import Model
from isoflop.report.table import Key
from isoflop.studio.live import Snapshot

BAND_POINTS = 80


def draw_courses(now: Snapshot) -> Figure | None:
    """The loss of all members against tokens, as the report draws it."""
    colours = {model.name: colour(model, share) for model, share in zip(now.models, shares(now.models), strict=True)}
    return draw_loss_curves(now.models, colours, size_keys(now.models, colours))


def draw_course(model: Model, watch: Any) -> Figure | None:
    """One member's loss; with a `watch`, the band outside of which it is off its track, and the curve expected."""
    figure = draw_loss_curves((model,), {model.name: "s8"}, [Key(f"{model.name}, measured", "line", "s8", model.size)])
    if figure is None or watch is None or model.planned is None or not model.planned.tokens:
        return figure
    progress = np.geomspace(0.02, 1.0, BAND_POINTS)
    low, middle, high = watch.band(progress)
    tokens = progress * float(model.planned.tokens)
    (panel,) = figure.drawing.panels
    lines = (
        band(tokens, low, high, "band-95", "where healthy runs of this size lie", "band"),
        Line(tokens, middle, "law", "expected from the finished runs", "expected"),
        *panel.lines,
    )
    x = replace(panel.x, high=max(panel.x.high, 1.02 * float(tokens[-1])))
    y = replace(panel.y, low=min(panel.y.low, 0.99 * float(low.min())))
    drawing = replace(figure.drawing, panels=(replace(panel, x=x, y=y, lines=lines),))
    keys = (*figure.keys, Key("expected", "line", "law", "expected"), Key("healthy runs", "band", "band-95", "band"))
    return replace(figure, drawing=drawing, keys=keys)
