"""Figures of a run that goes on: losses beside the band that finished members lead to expect, and what was foretold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isoflop.report.drawing import Line, Panel, band
from isoflop.report.figure import Figure
from isoflop.report.loss_curves import draw_loss_curves
from isoflop.report.page import colour, shares, size_keys
from isoflop.report.run import Model
from isoflop.report.table import Key
from isoflop.studio.live import Snapshot

BAND_POINTS = 80
# A foretold interval that reaches so far above its loss says nothing, and would press all curves flat.
MOST_REACH = 1.5
LEVELS = ("loss", "low_80", "high_80", "low_95", "high_95")


def draw_courses(now: Snapshot, quoted: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """The loss of all members against tokens, as the report draws it.

    Those that train lie beside the band of healthy runs, where enough are finished to know it. At the end of each that
    is not finished stands its held-out loss as foretold: by forecast.json, else by the quote, of which `quoted` has a
    row by model where its law is of the same text.
    """
    colours = {model.name: colour(model, share) for model, share in zip(now.models, shares(now.models), strict=True)}
    figure = draw_loss_curves(now.models, colours, size_keys(now.models, colours))
    if figure is None:
        return None
    behind: list[Line] = []
    for model in now.models:
        if model.name in now.watches:
            behind += _expected(model, now.watches[model.name])
    ends: list[Line] = []
    for model in now.models:
        row = _foretold(now, model.name, quoted)
        if row is not None and model.result is None and model.planned is not None and model.planned.tokens:
            ends += _end(model, float(model.planned.tokens), row)
    keys = list(figure.keys)
    if behind:
        keys += _keys_of_band("expected of those that train")
    if ends:
        keys.append(Key("held-out loss foretold, 80 and 95 %", "line", "interval-80", "foretold"))
    return _with(figure, behind, ends, keys)


def draw_course(model: Model, watch: Any) -> Figure | None:
    """One member's loss; with a `watch`, the band outside of which it is off its track, and the curve expected."""
    figure = draw_loss_curves((model,), {model.name: "s8"}, [Key(f"{model.name}, measured", "line", "s8", model.size)])
    if figure is None or watch is None or model.planned is None or not model.planned.tokens:
        return figure
    return _with(figure, _expected(model, watch), [], [*figure.keys, *_keys_of_band("expected")])


def _expected(model: Model, watch: Any) -> list[Line]:
    """The band of healthy runs of the model's size over its whole length, and the curve in its middle."""
    if model.planned is None or not model.planned.tokens:
        return []
    progress = np.geomspace(0.02, 1.0, BAND_POINTS)
    low, middle, high = watch.band(progress)
    tokens = progress * float(model.planned.tokens)
    return [
        band(tokens, low, high, "band-95", f"where healthy runs of {model.size} lie", "band"),
        Line(tokens, middle, "law", f"{model.name}: expected from the finished runs", "expected"),
    ]


def _keys_of_band(expected: str) -> list[Key]:
    return [Key(expected, "line", "law", "expected"), Key("where healthy runs lie", "band", "band-95", "band")]


def _foretold(now: Snapshot, name: str, quoted: Mapping[str, Mapping[str, float]]) -> Mapping[str, float] | None:
    row: Mapping[str, Any] = quoted.get(name, {})
    if now.forecast is not None and now.forecast.model == name:
        row = {key: getattr(now.forecast, key) for key in LEVELS}
    if any(not isinstance(row.get(key), int | float) for key in LEVELS):
        return None
    return row if row["high_95"] < MOST_REACH * row["loss"] else None


def _end(model: Model, tokens: float, row: Mapping[str, float]) -> list[Line]:
    at = np.full(2, tokens)
    told = f"{model.name}: held-out loss foretold {row['loss']:.3f}"
    reach = {level: np.array([row[f"low_{level}"], row[f"high_{level}"]]) for level in (95, 80)}
    return [Line(at, reach[level], f"interval-{level}", told, "foretold", silent=True) for level in (95, 80)]


def _with(figure: Figure, behind: Sequence[Line], before: Sequence[Line], keys: Sequence[Key]) -> Figure:
    """The figure with lines behind and before its own, its axes wide enough for all of them."""
    if not behind and not before:
        return figure
    (panel,) = figure.drawing.panels
    added = [*behind, *before]
    # Bands begin far above what curves end at: they are cut at the frame.
    low = min(float(line.y.min()) for line in added)
    high = max((float(line.y.max()) for line in before), default=panel.y.high)
    x = replace(panel.x, high=max(panel.x.high, 1.06 * max(float(line.x.max()) for line in added)))
    y = replace(panel.y, low=min(panel.y.low, 0.99 * low), high=max(panel.y.high, 1.01 * high))
    wider: Panel = replace(panel, x=x, y=y, lines=(*behind, *panel.lines, *before))
    return replace(figure, drawing=replace(figure.drawing, panels=(wider,)), keys=tuple(keys))
