"""The figure of loss against compute: the points, the law with its intervals, and the held-out model's test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.law import Curve, Law
from isoflop.report.drawing import (
    Array,
    Axis,
    Drawing,
    Panel,
    Shape,
    Tick,
    Words,
    band,
    diamond,
    dot,
    line,
    padded,
    whisker,
)
from isoflop.report.numbers import MINUS, loss, power_of_ten, scientific
from isoflop.report.records import Forecast
from isoflop.report.run import Model

TITLE = "Held-out loss against training compute"
CURVE_POINTS = 33
RANGE_MARGIN = 0.07


@dataclass(frozen=True)
class Measured:
    """A finished model's place in the figure; `shade` as in `drawing.Shape`."""

    name: str
    size: str
    held_out: bool
    flops: float
    loss: float
    shade: float

    @property
    def hover(self) -> str:
        told = f"{self.name}: {loss(self.loss)} nats/token at {scientific(self.flops)} FLOPs"
        return told + ", held out" * self.held_out


@dataclass(frozen=True)
class Foretold:
    """A forecast with nothing missing."""

    hover: str
    flops: float
    loss: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float

    @classmethod
    def of(cls, forecast: Forecast | None) -> "Foretold | None":
        """None where a number is missing."""
        if forecast is None:
            return None
        keys = ("flops", "loss", "low_80", "high_80", "low_95", "high_95")
        found = {key: number for key in keys if (number := getattr(forecast, key)) is not None and number > 0}
        if len(found) < len(keys):
            return None
        told = {key: loss(number) for key, number in found.items()}
        hover = f"{forecast.model} foretold: {told['loss']}, 80 % interval {told['low_80']} to {told['high_80']}"
        hover += f", 95 % interval {told['low_95']} to {told['high_95']}"
        return cls(hover, *(found[key] for key in keys))


def law_curve(law: Law, models: Sequence[Model], forecast: Forecast | None) -> Curve:
    """The law over the compute of its own points, the models that are done and the forecast."""
    done = [model.result.flops for model in models if model.result and model.result.flops]
    foretold = [forecast.flops] if forecast and forecast.flops else []
    low, high = padded([point.flops for point in law.points] + done + foretold, RANGE_MARGIN, log=True)
    return law.curve(np.geomspace(low, high, CURVE_POINTS))


def draw_loss_against_compute(
    name: str,
    models: Sequence[Model],
    shades: Mapping[str, float],
    curve: Curve | None,
    forecast: Forecast | None,
    width: int,
    height: int,
) -> Drawing | None:
    """Loss against FLOPs, both logarithmic, and below it (with a law) how far each lies off the law's median, in %.

    `curve` is what `law_curve` returns for the same models and forecast. None where there is neither a point nor a law.
    """
    points = _measured(models, shades)
    foretold = Foretold.of(forecast)
    flops = [p.flops for p in points] + ([foretold.flops] if foretold else [])
    if not flops and curve is None:
        return None
    low, high = (
        padded(flops, RANGE_MARGIN, log=True) if curve is None else (float(curve.flops[0]), float(curve.flops[-1]))
    )
    x = Axis(low, high, 52, width - 14, True, "training FLOPs")
    split = round(height * 0.62) if curve else height - 46
    panels = [_panel_of_loss(x, split, points, foretold, curve)]
    if curve:
        panels.append(_panel_off_law(x, split + 40, height - 46, points, foretold, curve))
    told = "; ".join(f"{p.name} {loss(p.loss)} at {scientific(p.flops)} FLOPs" for p in points)
    description = f"Measured, in nats per token: {told or 'nothing yet'}."
    if foretold:
        description += f" Foretold at {scientific(foretold.flops)} FLOPs: {foretold.hover}."
    return Drawing(name, width, height, TITLE, description, tuple(panels))


def _measured(models: Sequence[Model], shades: Mapping[str, float]) -> list[Measured]:
    """Held-out models last, so that they lie on top."""
    points = []
    for model in sorted(models, key=lambda model: model.held_out):
        flops, nats = (model.result.flops, model.result.nats_per_token) if model.result else (None, None)
        if flops is not None and nats is not None and flops > 0 and nats > 0:
            points.append(Measured(model.name, model.size, model.held_out, flops, nats, shades[model.name]))
    return points


def _panel_of_loss(
    x: Axis, bottom: int, points: Sequence[Measured], foretold: Foretold | None, curve: Curve | None
) -> Panel:
    values = [p.loss for p in points] + ([foretold.low_95, foretold.high_95] if foretold else [])
    values += curve.loss[[0, -1]].tolist() if curve else []
    y = Axis(*padded(values, 0.07, log=True), bottom, 30, True, "held-out loss, nats/token")
    shapes = _law_shapes(x, y, curve) if curve else ()
    marks = _forecast_marks(x, y, foretold, lambda value: value) if foretold else ()
    marks += tuple(_mark(p, x, y, p.loss) for p in points)
    return Panel(x, y, _x_ticks(x), y.ticks(6, lambda v: f"{v:.4g}"), shapes, marks, _names(points, x, y))


def _panel_off_law(
    x: Axis,
    top: int,
    bottom: int,
    points: Sequence[Measured],
    foretold: Foretold | None,
    curve: Curve,
) -> Panel:
    """The same x; y is the loss over the law's median, less one, in %: at the scale of a law its interval is a hair."""
    off = [100 * (p.loss / _median(curve, p.flops) - 1) for p in points]
    reach = [1.0, *(abs(value) for value in off)]
    marks: tuple[Shape, ...] = ()
    if foretold:
        median = _median(curve, foretold.flops)
        reach += [100 * abs(edge / median - 1) for edge in (foretold.low_95, foretold.high_95)]
    y = Axis(-1.15 * max(reach), 1.15 * max(reach), bottom, top, False, "off the law's median, %")
    if foretold:
        marks = _forecast_marks(x, y, foretold, lambda value: 100 * (value / median - 1))
    marks += tuple(_mark(p, x, y, value) for p, value in zip(points, off, strict=True))
    edges = (curve.loss, curve.low_80, curve.high_80, curve.low_95, curve.high_95)
    relative = Curve(curve.flops, *(100 * (edge / curve.loss - 1) for edge in edges))
    y_ticks = y.ticks(4, lambda v: f"{v:+.3g}".replace("-", MINUS) if v else "0")
    return Panel(x, y, _x_ticks(x), y_ticks, _law_shapes(x, y, relative), marks)


def _median(curve: Curve, flops: float) -> float:
    return float(np.exp(np.interp(np.log(flops), np.log(curve.flops), np.log(curve.loss))))


def _x_ticks(x: Axis) -> tuple[Tick, ...]:
    return x.ticks(4 if x.end < 600 else 8, power_of_ten)


def _law_shapes(x: Axis, y: Axis, curve: Curve) -> tuple[Shape, ...]:
    at = x.at(curve.flops)
    return (
        _law_band(at, y.at(curve.low_95), y.at(curve.high_95), "95"),
        _law_band(at, y.at(curve.low_80), y.at(curve.high_80), "80"),
        Shape(line(at, y.at(curve.loss)), "law", "the law's median"),
    )


def _law_band(at: Array, low: Array, high: Array, percent: str) -> Shape:
    return Shape(band(at, low, high), f"band band-{percent}", f"the law's {percent} % interval for one new run")


def _forecast_marks(x: Axis, y: Axis, foretold: Foretold, shown: Callable[[float], float]) -> tuple[Shape, ...]:
    """The forecast's interval; `shown` turns a loss into what the y axis measures."""
    at = float(x.at(foretold.flops))
    low_95, low_80, middle, high_80, high_95 = (
        float(y.at(shown(edge)))
        for edge in (foretold.low_95, foretold.low_80, foretold.loss, foretold.high_80, foretold.high_95)
    )
    return (
        Shape(whisker(at, low_95, high_95, 7), "foretold-95", foretold.hover),
        Shape(whisker(at, low_80, high_80, 0), "foretold-80", foretold.hover),
        Shape(f"M{at - 11:.1f} {middle:.1f}h22", "foretold-median", foretold.hover),
    )


def _mark(point: Measured, x: Axis, y: Axis, value: float) -> Shape:
    at = float(x.at(point.flops)), float(y.at(value))
    if point.held_out:
        return Shape(diamond(*at, 6.5), "point held", point.hover)
    return Shape(dot(*at, 4.5), "point ladder", point.hover, point.shade)


def _names(points: Sequence[Measured], x: Axis, y: Axis) -> tuple[Words, ...]:
    """The name of each size above its runs, left out where it would lie on another."""
    words: list[Words] = []
    taken: list[tuple[float, float, float]] = []
    for p in sorted(points, key=lambda p: (not p.held_out, -p.flops)):
        at = float(x.at(p.flops))
        above = min(float(y.at(q.loss)) for q in points if q.size == p.size) - 10
        text = p.size if len(p.size) <= 12 else p.size[:11] + "…"
        length = sum(12.5 if letter in "MWmw@%" or letter > "~" else 7.5 for letter in text)
        inward = at + 8 + length > x.end
        left = at - 10 - length if inward else at + 6
        if all(left > one + n + 4 or left + length < one - 4 or abs(above - h) > 14 for one, n, h in taken):
            taken.append((left, length, above))
            css = "name held" if p.held_out else "name"
            words.append(Words(at - 10 if inward else left, above, text, css, "end" if inward else "start"))
    return tuple(words)
