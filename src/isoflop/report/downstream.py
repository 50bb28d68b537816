"""The figures of downstream scaling: accuracy against compute by task, the family's law, and published models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from isoflop.errors import InputError
from isoflop.law.downstream import Accuracy, DownstreamLaw, TaskPoint, fit_downstream
from isoflop.published import published_tasks
from isoflop.report.drawing import Drawing, Line, Mark, Panel, band
from isoflop.report.figure import Figure
from isoflop.report.numbers import scientific
from isoflop.report.published import styles
from isoflop.report.records import Comparison
from isoflop.report.run import Model
from isoflop.report.scale import Array, Scale, padded
from isoflop.report.table import Cell, Key, Table

AVERAGE = "average"
# Compute-optimal at every size, as our own families are: its accuracies follow a law of compute.
REFERENCE = "Cerebras-GPT"
# An interval takes some ten milliseconds a point; a sigmoid none.
CURVE_POINTS, SMOOTH_POINTS = 13, 33


@dataclass(frozen=True)
class Reached:
    """What a model reaches on a task: accuracies in per cent, `stderr` None where none is known."""

    family: str
    model: str
    ours: bool
    params: float | None
    tokens: float | None
    flops: float
    accuracy: float
    stderr: float | None


@dataclass(frozen=True)
class Task:
    """A task with the same number of examples for all, what guessing reaches, and who reached what."""

    name: str
    title: str
    chance: float | None
    reached: tuple[Reached, ...]


def tasks_of(models: Sequence[Model], comparison: Comparison, shots: int) -> list[Task]:
    """Every task that a model of ours or a published one was asked with so many examples: own ones first, then the
    published with their average. Tasks of a group that was scored as one stand in the group."""
    ours = _ours(models, shots)
    own = {name: rows for name, rows in ours.items() if name not in _harness_names()}
    found = [Task(name, name.replace("_", " "), chance, tuple(rows)) for name, (chance, rows) in own.items()]
    theirs = _published(comparison, shots)
    everyone: dict[str, list[Reached]] = {}
    for task in published_tasks():
        rows = list(ours.get(task.harness_task, (None, []))[1]) + theirs.get(task.task, [])
        if rows:
            found.append(Task(task.task, task.published_as, 100 * task.chance, tuple(rows)))
            for row in rows:
                everyone.setdefault(row.model + "\0" + row.family, []).append(row)
    n = len(published_tasks())
    whole = [rows for rows in everyone.values() if len(rows) == n]
    if whole:
        chance = 100 * sum(task.chance for task in published_tasks()) / n
        mean = [_mean(rows) for rows in whole]
        found.append(Task(AVERAGE, f"Average of the {n}", chance, tuple(mean)))
    return found


def draw_task(task: Task, shots: int, comparison: Comparison) -> Figure:
    """Accuracy against training FLOPs with error bars of one standard error; ours with its law where it has one."""
    style = styles(comparison)
    ours = tuple(one for one in task.reached if one.ours)
    for one in ours:
        style.setdefault(one.family, ("held", "diamond"))
    law = _law(ours, task.chance)
    theirs = tuple(one for one in task.reached if one.family == REFERENCE)
    reference = _law(theirs, task.chance)
    x = Scale(*padded([one.flops for one in task.reached], 0.06, log=True), True, "training FLOPs", "flops", "FLOPs")
    tops = [one.accuracy + (one.stderr or 0) for one in task.reached]
    lows = [one.accuracy - (one.stderr or 0) for one in task.reached] + (
        [task.chance] if task.chance is not None else []
    )
    y = Scale(*padded([*tops, *lows], 0.08, log=False), False, "accuracy, %", "plain", "%")
    lines: list[Line] = []
    if law:
        lines += _law_lines(ours, task.chance)
    if reference:
        flops, label = _law_flops(theirs, SMOOTH_POINTS), f"the law of {REFERENCE}"
        middle = 100 * reference.sigmoid.at(-np.log(flops))
        lines.append(Line(flops, middle, "p0 dashed thin", label, REFERENCE))
    if task.chance is not None:
        ends = np.array([x.low, x.high])
        lines.append(Line(ends, np.full(2, task.chance), "p6 dashed thin", f"guessing: {task.chance:g} %", "chance"))
    marks = []
    for one in sorted(task.reached, key=lambda one: one.ours):
        colour, glyph = style[one.family]
        if one.stderr:
            ends = np.array([one.accuracy - one.stderr, one.accuracy + one.stderr])
            lines.append(Line(np.full(2, one.flops), ends, f"{colour} error", series=one.family, silent=True))
        marks.append(Mark(one.flops, one.accuracy, glyph, colour, _told(one), one.family))
    title = f"{task.title}, {shots} examples" if shots else task.title
    best = max(task.reached, key=lambda one: one.accuracy)
    told = f"{len(task.reached)} models; the best is {_told(best)}."
    if task.chance is not None:
        told += f" Guessing reaches {task.chance:g} %."
    drawing = Drawing(f"task-{shots}-{task.name}", title, told, (Panel(x, y, tuple(lines), tuple(marks)),), 260, 250)
    return Figure(drawing, (), _table(task, shots, law))


def task_keys(tasks: Sequence[Task], comparison: Comparison) -> list[Key]:
    """One legend for all tasks: ours first."""
    style = styles(comparison)
    ours = {one.family for task in tasks for one in task.reached if one.ours}
    theirs = {one.family for task in tasks for one in task.reached if not one.ours}
    keys = [Key(name, style.get(name, ("held", "diamond"))[1], "held", name) for name in sorted(ours)]
    if any(_law(tuple(one for one in task.reached if one.ours), task.chance) for task in tasks):
        keys.append(Key("its law; pale: 80 % for one new run", "line", "law", "task-law"))
    keys += [Key(name, style[name][1], style[name][0], name) for name in sorted(theirs)]
    return [*keys, Key("guessing", "line", "p6 dashed thin", "chance")]


def _harness_names() -> set[str]:
    return {task.harness_task for task in published_tasks()}


def _ours(models: Sequence[Model], shots: int) -> dict[str, tuple[float | None, list[Reached]]]:
    """By the harness's name: chance in per cent, and what the family's models reached at the end of their training."""
    found: dict[str, tuple[float | None, list[Reached]]] = {}
    members = {member for model in models for score in model.scores for member in score.members}
    for model in models:
        last = max((score.step or 0 for score in model.scores), default=0)
        if model.result is None or not model.result.flops:
            continue
        for score in model.scores:
            whole = score.limit is None and score.shots == shots and (score.step or 0) == last
            if score.accuracy is None or not whole or score.task in members or not 0 <= score.accuracy <= 1:
                continue
            chance = None if score.chance is None else 100 * score.chance
            row = Reached(
                family=model.family,
                model=model.name,
                ours=True,
                params=model.result.params,
                tokens=model.result.tokens,
                flops=model.result.flops,
                accuracy=100 * score.accuracy,
                stderr=None if score.stderr is None else 100 * score.stderr,
            )
            found.setdefault(score.task, (chance, []))[1].append(row)
    return found


def _published(comparison: Comparison, shots: int) -> dict[str, list[Reached]]:
    found: dict[str, list[Reached]] = {}
    for model in comparison.models:
        for task, accuracy in model.scores.get(str(shots), {}).items():
            if not model.ours and model.flops and accuracy is not None:
                row = Reached(
                    model.family, model.model, False, model.params, model.tokens, model.flops, 100 * accuracy, None
                )
                found.setdefault(task, []).append(row)
    return found


def _mean(rows: Sequence[Reached]) -> Reached:
    """Of a model over the tasks; errors of different tasks are independent."""
    n, one = len(rows), rows[0]
    errors = [row.stderr for row in rows]
    stderr = None if None in errors else float(np.sqrt(sum((error or 0.0) ** 2 for error in errors)) / n)
    mean = sum(row.accuracy for row in rows) / n
    return Reached(one.family, one.model, one.ours, one.params, one.tokens, one.flops, mean, stderr)


@lru_cache(maxsize=512)
def _law(ours: tuple[Reached, ...], chance: float | None) -> DownstreamLaw | None:
    """Accuracy straight from compute; None with too few runs."""
    points = [TaskPoint(1.0, 1.0, one.flops, None, one.accuracy / 100, one.model) for one in ours]
    try:
        return fit_downstream(points, (chance or 0.0) / 100)
    except InputError:
        return None


@lru_cache(maxsize=4096)
def _said(ours: tuple[Reached, ...], chance: float | None, flops: float) -> Accuracy:
    """What the law of these runs says of a new one; kept, for a live page is drawn again and again."""
    law = _law(ours, chance)
    assert law is not None
    return law.predict(1.0, 1.0, flops)


def _law_lines(ours: tuple[Reached, ...], chance: float | None) -> list[Line]:
    flops = _law_flops(ours, CURVE_POINTS)
    said = [_said(ours, chance, float(one)) for one in flops]
    middle, bottom, top = (
        100 * np.array([getattr(one, key) for one in said]) for key in ("accuracy", "low_80", "high_80")
    )
    label = "the law's 80 % interval for one new run"
    return [
        band(flops, bottom, top, "band-80", label, "task-law"),
        Line(flops, middle, "law", "the family's law", "task-law"),
    ]


def _law_flops(reached: Sequence[Reached], points: int) -> Array:
    """The compute of the runs and a little beyond."""
    low, high = padded([one.flops for one in reached], 0.15, log=True)
    return np.geomspace(low, high, points)


def _told(one: Reached) -> str:
    name = one.model if one.ours else f"{one.family} {one.model}"
    error = f" ± {one.stderr:.1f}" if one.stderr else ""
    return f"{name}: {one.accuracy:.1f}{error} % at {scientific(one.flops)} FLOPs"


def _table(task: Task, shots: int, law: DownstreamLaw | None) -> Table:
    columns = (
        "family",
        "model",
        "training FLOPs",
        "examples",
        "accuracy (%)",
        "standard error (%)",
        "law's accuracy (%)",
    )
    rows: list[tuple[Cell, ...]] = []
    ours = tuple(one for one in task.reached if one.ours)
    for one in task.reached:
        said = 100 * _said(ours, task.chance, one.flops).accuracy if law and one.ours else None
        rows.append((one.family, one.model, one.flops, shots, one.accuracy, one.stderr, said))
    return Table(columns, tuple(rows))
