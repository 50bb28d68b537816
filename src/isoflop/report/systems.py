"""The figures of systems: what a device must hold, how fast more of them are, and how long a training takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isoflop.report.drawing import Drawing, Line, Mark, Panel
from isoflop.report.figure import Figure
from isoflop.report.numbers import TIMES, count, digits, in_words, size
from isoflop.report.records import Scaling, ScalingRow, Step
from isoflop.report.run import Model
from isoflop.report.scale import Scale, padded
from isoflop.report.table import Key, Table


@dataclass(frozen=True)
class Way:
    """A way to train on many systems, as a reader meets it."""

    name: str
    label: str
    css: str
    glyph: str


WAYS = (
    Way("streamed", "weight streaming (isoflop)", "held", "diamond"),
    Way("resident", "data parallel, all weights on each device (isoflop)", "s8", "dot"),
    Way("ZeRO-3", "data parallel, states sharded (ZeRO-3)", "p2", "up"),
    Way("3D", f"tensor {TIMES} pipeline {TIMES} data, the fastest layout", "p5", "square"),
)
Placed = tuple[ScalingRow, Step]
Ways = dict[str, list[Placed]]
# Two points are no curve: a small family's step has microbatches for one or two systems only.
LEAST_NUMBERS = 3


@dataclass(frozen=True)
class Measured:
    """The speed of a model that was trained on so many systems: the median over its steps."""

    systems: float
    tokens_per_second: float


def measured_speed(models: Sequence[Model], name: str) -> Measured | None:
    """The speed that was logged for a model; None where it was not."""
    for model in models:
        if model.name == name and model.metrics and model.result and model.result.systems:
            known = model.metrics.tokens_per_second[np.isfinite(model.metrics.tokens_per_second)]
            if len(known):
                return Measured(model.result.systems, float(np.median(known)))
    return None


def draw_memory(scaling: Scaling) -> Figure | None:
    """Bytes that each device must hold, against the number of systems, by way; the dashed line is what a device has."""
    ways = _ways(scaling)
    if not ways:
        return None
    has = scaling.hardware.memory_bytes
    values = [step.memory_bytes for rows in ways.values() for _, step in rows]
    y = Scale(*padded([*values, has], 0.08, log=True), True, "memory needed on each device", "bytes")
    x = _systems_scale(scaling)
    limit = Line(np.array([x.low, x.high]), np.full(2, has), "limit dashed", f"{scaling.hardware.name} has", "limit")
    panel = _panel(ways, x, y, [limit], lambda step: step.memory_bytes, _told_memory)
    told = f"{scaling.model} on {scaling.hardware.name}, which has {size(has)}. " + _ends(
        ways, lambda step: size(step.memory_bytes)
    )
    drawing = Drawing("memory", "Memory on each device against the number of systems", told, (panel,), 400, 340)
    keys = [*_keys(ways), Key(f"what {scaling.hardware.name} has: {size(has)}", "line", "limit dashed", "limit")]
    return Figure(drawing, tuple(keys), _table(ways))


def draw_speed(scaling: Scaling, name: str, measured: Measured | None = None) -> Figure | None:
    """Tokens a second against the number of systems, by way, where it fits; grey: N times one system.

    None where nothing fits, or the batch has work for so few systems that there is no curve.
    """
    ways = _ways(scaling, fitting=True)
    if max(map(len, ways.values()), default=0) < LEAST_NUMBERS:
        return None
    values = [step.tokens_per_second for rows in ways.values() for _, step in rows]
    values += [measured.tokens_per_second] if measured else []
    x = _systems_scale(scaling)
    y = Scale(*padded(values, 0.08, log=True), True, "tokens per second", "count", "tokens/s")
    first, step = (ways.get("streamed") or next(iter(ways.values())))[0]
    one = step.tokens_per_second / step.of_linear / first.systems
    linear = Line(np.array([x.low, x.high]), one * np.array([x.low, x.high]), "p6 thin dashed", "N times one", "linear")
    panel = _panel(ways, x, y, [linear], lambda step: step.tokens_per_second, _told_speed)
    if measured:
        sentence = f"measured on {measured.systems:g}: {count(measured.tokens_per_second)} tokens/s"
        mark = Mark(measured.systems, measured.tokens_per_second, "hexagon", "hollow", sentence, "measured")
        panel = replace(panel, marks=(*panel.marks, mark))
    told = f"{scaling.model} on {scaling.hardware.name}. " + _ends(
        ways, lambda step: f"{count(step.tokens_per_second)} tokens/s, {100 * step.of_linear:.0f} % of linear"
    )
    drawing = Drawing(name, f"Speed of {scaling.model} on {scaling.hardware.name}", told, (panel,), 340, 320)
    keys = [*_keys(ways), Key("N times one system that streams", "line", "p6 thin dashed", "linear")]
    if measured:
        keys.append(Key("measured in this family's training", "hexagon", "hollow", "measured"))
    return Figure(drawing, tuple(keys), _table(ways))


@dataclass(frozen=True)
class Choice:
    """What a number of systems asks of the person who trains on it: isoflop one number, other ways a layout."""

    systems: int
    streamed: Step
    seconds: float
    layout: str
    layout_seconds: float | None


def choices(scaling: Scaling) -> list[Choice]:
    """For each number of systems that isoflop streams on: how long the training takes, and the best layout beside."""
    ways = _ways(scaling)
    found = []
    for row, step in ways.get("streamed", []):
        other = next((one for one in scaling.rows if one.way == "3D" and one.systems == row.systems), None)
        layout = "none fits"
        if other and other.layout and other.foretold:
            it = other.layout
            layout = f"tensor {it.tensor}, pipeline {it.pipeline}, data {it.data}, microbatch {it.microbatch_sequences}"
            layout += f", {it.chunks} chunks" * (it.chunks > 1) + ", layers computed again" * it.recompute
        seconds = scaling.tokens / step.tokens_per_second
        theirs = scaling.tokens / other.foretold.tokens_per_second if other and other.foretold else None
        found.append(Choice(row.systems, step, seconds, layout, theirs))
    return found


def draw_time(scalings: Sequence[Scaling]) -> Figure | None:
    """How long each model's training takes on N systems that stream, by the one number that is changed."""
    curves = [(one, _ways(one, fitting=True).get("streamed", [])) for one in scalings]
    curves = [(one, rows) for one, rows in curves if len(rows) >= LEAST_NUMBERS]
    if not curves:
        return None
    hours = {id(one): [one.tokens / step.tokens_per_second / 3600 for _, step in rows] for one, rows in curves}
    every = [value for values in hours.values() for value in values]
    x = Scale(
        *padded([row.systems for _, rows in curves for row, _ in rows], 0.04, log=True),
        True,
        "systems = N",
        "plain",
        "",
        2,
    )
    y = Scale(*padded(every, 0.08, log=True), True, "time to train, hours", "plain", "h")
    lines, marks, keys, table, told = [], [], [], [], []
    for (one, rows), css, glyph in zip(curves, ("held", "s8", "p5"), ("diamond", "dot", "square"), strict=False):
        label = f"{one.model} on N {TIMES} {one.hardware.name}"
        series = f"{one.model}-{one.hardware.name}"
        numbers = np.array([float(row.systems) for row, _ in rows])
        lines.append(Line(numbers, np.array(hours[id(one)]), css, label, series, silent=True))
        for (row, step), value in zip(rows, hours[id(one)], strict=True):
            sentence = f"{label}: {in_words(3600 * value)} on {row.systems:,}, {100 * step.of_linear:.0f} % of linear"
            marks.append(Mark(row.systems, value, glyph, css, sentence, series))
            table.append((one.model, one.hardware.name, row.systems, value, step.of_linear))
        keys.append(Key(label, glyph, css, series))
        told.append(f"{label}: {in_words(3600 * hours[id(one)][0])} on {rows[0][0].systems}")
        told[-1] += f", {in_words(3600 * hours[id(one)][-1])} on {rows[-1][0].systems:,}"
    drawing = Drawing(
        "time", "Time to train against the number of systems", "; ".join(told) + ".",
        (Panel(x, y, tuple(lines), tuple(marks)),), 360, 320,
    )  # fmt: skip
    columns = ("model", "system", "systems", "time to train (hours)", "share of linear speed")
    return Figure(drawing, tuple(keys), Table(columns, tuple(table)))


def _ways(scaling: Scaling, *, fitting: bool = False) -> Ways:
    """The rows of each way that has any, by name and in the order of `WAYS`; `fitting`: those that fit the device."""
    found = {}
    for way in WAYS:
        rows = [(row, row.foretold) for row in scaling.rows if row.way == way.name and row.foretold is not None]
        rows = [(row, step) for row, step in rows if step.fits or not fitting]
        if rows:
            found[way.name] = rows
    return found


def _systems_scale(scaling: Scaling) -> Scale:
    low, high = padded([row.systems for row in scaling.rows], 0.04, log=True)
    return Scale(low, high, True, "number of systems", "plain", "systems", base=2)


def _panel(
    ways: Ways,
    x: Scale,
    y: Scale,
    lines: list[Line],
    value: Callable[[Step], float],
    told: Callable[[ScalingRow, Step], str],
) -> Panel:
    marks = []
    for way in WAYS:
        rows = ways.get(way.name, [])
        numbers = np.array([float(row.systems) for row, _ in rows])
        lines.append(
            Line(numbers, np.array([value(step) for _, step in rows]), way.css, way.label, way.name, silent=True)
        )
        marks += [Mark(row.systems, value(step), way.glyph, way.css, told(row, step), way.name) for row, step in rows]
    return Panel(x, y, tuple(lines), tuple(reversed(marks)))


def _told_memory(row: ScalingRow, step: Step) -> str:
    told = f"{row.way} on {row.systems:,}: {size(step.memory_bytes)} a device" + ", more than it has" * (not step.fits)
    return told + _layout(row)


def _told_speed(row: ScalingRow, step: Step) -> str:
    took = in_words(step.step_seconds) if step.step_seconds >= 60 else f"{digits(step.step_seconds)} s"
    told = f"{row.way} on {row.systems:,}: {count(step.tokens_per_second)} tokens/s, a step in {took}"
    return told + f", {100 * step.of_linear:.0f} % of linear" + _layout(row)


def _layout(row: ScalingRow) -> str:
    if row.layout is None:
        return ""
    it = row.layout
    shares = f"; tensor {it.tensor} {TIMES} pipeline {it.pipeline} {TIMES} data {it.data}" if row.way == "3D" else ""
    return shares + f", microbatches of {it.microbatch_sequences}" + ", layers computed again" * it.recompute


def _ends(ways: Ways, value: Callable[[Step], str]) -> str:
    told = []
    for name, rows in ways.items():
        (first, a), (last, b) = rows[0], rows[-1]
        told.append(f"{name}: {value(a)} on {first.systems:,}, {value(b)} on {last.systems:,}")
    return "; ".join(told) + "."


def _keys(ways: Ways) -> list[Key]:
    return [Key(way.label, way.glyph, way.css, way.name) for way in WAYS if way.name in ways]


def _table(ways: Ways) -> Table:
    cuts = ("way", "systems", "tensor", "pipeline", "data", "microbatch", "memory a device (bytes)", "fits")
    columns = (*cuts, "step (s)", "tokens/s", "share of linear", "share of peak")
    rows = []
    for name, placed in ways.items():
        for row, step in placed:
            it = row.layout
            cut = (it.tensor, it.pipeline, it.data, it.microbatch_sequences) if it else (None,) * 4
            numbers = (step.step_seconds, step.tokens_per_second, step.of_linear, step.of_peak)
            rows.append((name, row.systems, *cut, step.memory_bytes, "yes" if step.fits else "no", *numbers))
    return Table(columns, tuple(rows))
