"""The figure of loss against compute: the points, the law with its intervals, and the held-out model's test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.law import Curve, Law
from isoflop.report.drawing import Drawing, Line, Mark, Panel, Words, band
from isoflop.report.figure import Figure
from isoflop.report.numbers import loss, scientific
from isoflop.report.records import Forecast
from isoflop.report.run import Model
from isoflop.report.scale import Scale, padded
from isoflop.report.table import Cell, Key, Table

TITLE = "Held-out loss against training compute"
CURVE_POINTS = 33
EDGES = ("low_80", "high_80", "low_95", "high_95")
RANGE_MARGIN = 0.07


@dataclass(frozen=True)
class Measured:
    """A finished model's place in the figure; `colour` is a class."""

    name: str
    size: str
    held_out: bool
    flops: float
    loss: float
    colour: str

    @property
    def told(self) -> str:
        told = f"{self.name}: {loss(self.loss)} nats/token at {scientific(self.flops)} FLOPs"
        return told + ", held out" * self.held_out


@dataclass(frozen=True)
class Foretold:
    """A forecast with nothing missing."""

    model: str
    told: str
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
        sentence = f"{forecast.model} foretold: {told['loss']}, 80 % interval {told['low_80']} to {told['high_80']}"
        sentence += f", 95 % interval {told['low_95']} to {told['high_95']}"
        return cls(forecast.model, sentence, *(found[key] for key in keys))


def law_curve(law: Law, models: Sequence[Model], forecast: Forecast | None) -> Curve:
    """The law over the compute of its own points, the models that are done and the forecast."""
    done = [model.result.flops for model in models if model.result and model.result.flops]
    foretold = [forecast.flops] if forecast and forecast.flops else []
    low, high = padded([point.flops for point in law.points] + done + foretold, RANGE_MARGIN, log=True)
    return law.curve(np.geomspace(low, high, CURVE_POINTS))


def draw_loss_against_compute(
    models: Sequence[Model],
    colours: Mapping[str, str],
    curve: Curve | None,
    forecast: Forecast | None,
) -> Figure | None:
    """Loss against FLOPs, both logarithmic, and below it (with a law) how far each lies off the law's median, in %.

    `curve` is what `law_curve` returns for the same models and forecast. None where there is neither a point nor a law.
    """
    points = _measured(models, colours)
    foretold = Foretold.of(forecast)
    flops = [p.flops for p in points] + ([foretold.flops] if foretold else [])
    if not flops and curve is None:
        return None
    ends = padded(flops, RANGE_MARGIN, log=True) if curve is None else (float(curve.flops[0]), float(curve.flops[-1]))
    x = Scale(*ends, True, "training FLOPs", "flops", "FLOPs")
    panels = [_panel_of_loss(x, points, foretold, curve)]
    if curve:
        panels.append(_panel_off_law(x, points, foretold, curve))
    told = "; ".join(f"{p.name} {loss(p.loss)} at {scientific(p.flops)} FLOPs" for p in points)
    description = f"Measured, in nats per token: {told or 'nothing yet'}."
    if foretold:
        description += f" Foretold at {scientific(foretold.flops)} FLOPs: {foretold.told}."
    height, narrow = (580, 520) if curve else (400, 340)
    drawing = Drawing("compute", TITLE, description, tuple(panels), height, narrow)
    return Figure(drawing, tuple(_keys(points, foretold, curve)), _table(points, foretold, curve))


def _measured(models: Sequence[Model], colours: Mapping[str, str]) -> list[Measured]:
    """Held-out models last, so that they lie on top."""
    points = []
    for model in sorted(models, key=lambda model: model.held_out):
        flops, nats = (model.result.flops, model.result.nats_per_token) if model.result else (None, None)
        if flops is not None and nats is not None and flops > 0 and nats > 0:
            points.append(Measured(model.name, model.size, model.held_out, flops, nats, colours[model.name]))
    return points


def _panel_of_loss(x: Scale, points: Sequence[Measured], foretold: Foretold | None, curve: Curve | None) -> Panel:
    values = [p.loss for p in points] + ([foretold.low_95, foretold.high_95] if foretold else [])
    values += curve.loss[[0, -1]].tolist() if curve else []
    y = Scale(*padded(values, 0.07, log=True), True, "held-out loss, nats/token", "loss", "nats/token")
    lines = _law_lines(curve) if curve else []
    lines += _interval_lines(foretold, lambda value: value) if foretold else []
    marks = _forecast_marks(foretold, lambda value: value) if foretold else []
    marks += [_mark(p, p.loss) for p in points]
    return Panel(x, y, tuple(lines), tuple(marks), _names(points), share=0.62)


def _panel_off_law(x: Scale, points: Sequence[Measured], foretold: Foretold | None, curve: Curve) -> Panel:
    """The same x; y is the loss over the law's median, less one, in %: at the scale of a law its interval is a hair."""
    off = [100 * (p.loss / _median(curve, p.flops) - 1) for p in points]
    reach = [1.0, *(abs(value) for value in off)]
    median = _median(curve, foretold.flops) if foretold else 1.0
    if foretold:
        reach += [100 * abs(edge / median - 1) for edge in (foretold.low_95, foretold.high_95)]
    y = Scale(-1.15 * max(reach), 1.15 * max(reach), False, "off the law's median, %", "signed", "%")
    edges = (curve.loss, curve.low_80, curve.high_80, curve.low_95, curve.high_95)
    lines = _law_lines(Curve(curve.flops, *(100 * (edge / curve.loss - 1) for edge in edges)))
    marks = []
    if foretold:
        lines += _interval_lines(foretold, lambda value: 100 * (value / median - 1))
        marks += _forecast_marks(foretold, lambda value: 100 * (value / median - 1))
    marks += [_mark(p, value) for p, value in zip(points, off, strict=True)]
    return Panel(x, y, tuple(lines), tuple(marks), share=0.38)


def _median(curve: Curve, flops: float) -> float:
    return float(np.exp(np.interp(np.log(flops), np.log(curve.flops), np.log(curve.loss))))


def _law_lines(curve: Curve) -> list[Line]:
    return [
        band(curve.flops, curve.low_95, curve.high_95, "band-95", "the law's 95 % interval for one new run", "law-95"),
        band(curve.flops, curve.low_80, curve.high_80, "band-80", "the law's 80 % interval for one new run", "law-80"),
        Line(curve.flops, curve.loss, "law", "the law's median", "law"),
    ]


def _interval_lines(foretold: Foretold, shown: Callable[[float], float]) -> list[Line]:
    """The forecast's intervals; `shown` turns a loss into what the y axis measures."""
    return [
        Line(
            np.full(2, foretold.flops), np.array([shown(low), shown(high)]), css, foretold.told, "foretold", silent=True
        )
        for css, low, high in (
            ("interval-95", foretold.low_95, foretold.high_95),
            ("interval-80", foretold.low_80, foretold.high_80),
        )
    ]


def _forecast_marks(foretold: Foretold, shown: Callable[[float], float]) -> list[Mark]:
    ends = [("cap", foretold.low_95), ("median", foretold.loss), ("cap", foretold.high_95)]
    return [Mark(foretold.flops, shown(value), glyph, "tick-mark", foretold.told, "foretold") for glyph, value in ends]


def _mark(point: Measured, value: float) -> Mark:
    glyph, series = ("diamond", "held-out") if point.held_out else ("dot", "measured")
    return Mark(point.flops, value, glyph, point.colour, point.told, series)


def _names(points: Sequence[Measured]) -> tuple[Words, ...]:
    """The name of each size above its runs; the held-out one and the largest first, for others may have no room."""
    words: dict[str, Words] = {}
    for p in sorted(points, key=lambda p: (not p.held_out, -p.flops)):
        top = max(q.loss for q in points if q.size == p.size)
        text = p.size if len(p.size) <= 12 else p.size[:11] + "…"
        series = "held-out" if p.held_out else "measured"
        dx = 16 if p.held_out else 6
        words.setdefault(p.size, Words(p.flops, top, text, "held" if p.held_out else "", dx, series=series))
    return tuple(words.values())


def _keys(points: Sequence[Measured], foretold: Foretold | None, curve: Curve | None) -> list[Key]:
    keys = [Key("measured", "dot", "s5", "measured")] if any(not p.held_out for p in points) else []
    if any(p.held_out for p in points):
        keys.append(Key("held out, measured", "diamond", "held", "held-out"))
    if foretold:
        keys.append(Key("foretold: 80 %, 95 %", "median", "tick-mark", "foretold"))
    if curve:
        keys += [
            Key("law, median", "line", "law", "law"),
            Key("law, 80 % for one new run", "band", "band-80", "law-80"),
            Key("law, 95 %", "band", "band-95", "law-95"),
        ]
    return keys


def _table(points: Sequence[Measured], foretold: Foretold | None, curve: Curve | None) -> Table:
    unit = "(nats/token)"
    columns = ("kind", "name", "training FLOPs", f"loss {unit}", *(f"{end} {unit}" for end in EDGES))
    rows: list[tuple[Cell, ...]] = [
        ("held out" if p.held_out else "measured", p.name, p.flops, p.loss, None, None, None, None) for p in points
    ]
    if foretold:
        edges = (foretold.low_80, foretold.high_80, foretold.low_95, foretold.high_95)
        rows.append(("foretold", foretold.model, foretold.flops, foretold.loss, *edges))
    if curve:
        arrays = (curve.flops, curve.loss, curve.low_80, curve.high_80, curve.low_95, curve.high_95)
        rows += [("law", "", *(float(f"{value:.6g}") for value in row)) for row in zip(*arrays, strict=True)]
    return Table(columns, tuple(rows))
