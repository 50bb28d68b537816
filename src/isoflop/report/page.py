"""Writes report.html: one page that opens with no network and nothing beside it."""

import base64
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isoflop.data import Counts, Manifest
from isoflop.durable import write_text
from isoflop.report.costs import costs_of, machine_facts
from isoflop.report.downstream import draw_task, task_keys, tasks_of
from isoflop.report.drawing import GLYPHS
from isoflop.report.figure import COLOURS, Figure, shade
from isoflop.report.loss_against_compute import draw_loss_against_compute, law_curve
from isoflop.report.loss_curves import draw_loss_curves
from isoflop.report.numbers import FILTERS
from isoflop.report.openness import openness_table
from isoflop.report.published import beside_published, draw_published
from isoflop.report.records import Comparison
from isoflop.report.run import Foretold, Model, Run, read_run
from isoflop.report.systems import choices, draw_memory, draw_speed, draw_time, measured_speed
from isoflop.report.table import Key
from isoflop.report.verdict import Verdict, draw_verdict, judge

LIVE = "live.js"
SCRIPTS = ("scale.js", "plot.js", "pointing.js", "tools.js", "page.js")


def write_report(run_directory: Path, foretold: Foretold | None = None) -> Path:
    """Writes report.html into `run_directory` from what lies there and returns its path.

    A run that is not finished gives a page that says what is missing. `foretold` as in `read_run`.

    Raises:
        InputError: there is no such directory.
        WorkError: the page cannot be written; the one that was there stays.
    """
    run = read_run(run_directory, foretold)
    path = run_directory / "report.html"
    write_text(path, render(run, datetime.now(UTC)))
    return path


@dataclass(frozen=True)
class TaskGroup:
    """All tasks asked with so many examples, under one legend."""

    shots: int
    figures: tuple[Figure, ...]
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Parts:
    """What the page is made of, beside the run directory itself."""

    verdict: Verdict | None
    beside: Comparison
    figures: dict[str, Figure]
    tasks: list[TaskGroup]


def page_parts(run: Run) -> Parts:
    """Everything that is drawn: figures by the name of their drawing, and those of tasks in groups."""
    verdict, beside = judge(run.forecast, run.models), beside_published(run)
    return Parts(verdict, beside, figures_of(run, verdict, beside), task_groups(run, beside))


def render(run: Run, time: datetime, *, live: bool = False) -> str:
    """The page as HTML; `live` as `isoflop serve` shows it, which looks for news by itself."""
    parts, script = page_parts(run), _script((*SCRIPTS, LIVE) if live else SCRIPTS)
    return (
        templates()
        .get_template("page.html.jinja")
        .render(
            run=run,
            verdict=parts.verdict,
            beside=parts.beside,
            figures=defaultdict(lambda: None, parts.figures),
            tasks=parts.tasks,
            openness=openness_table(parts.beside),
            choices=choices(run.scalings[-1]) if run.scalings else [],
            costs=costs_of(run.models),
            machine=machine_facts(run.plan.machine) if run.plan else [],
            domains=_domains(run.manifest) if run.manifest else [],
            time=time.isoformat(timespec="seconds"),
            live=live,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def figures_of(run: Run, verdict: Verdict | None, beside: Comparison) -> dict[str, Figure]:
    """The figures that have something to show, by the name of their drawing."""
    colours = {model.name: colour(model, share) for model, share in zip(run.models, shares(run.models), strict=True)}
    curve = law_curve(run.law, run.models, run.forecast) if run.law else None
    drawn = [
        draw_verdict(verdict) if verdict else None,
        draw_loss_against_compute(run.models, colours, curve, run.forecast),
        draw_loss_curves(run.models, colours, size_keys(run.models, colours)),
        draw_memory(run.scalings[-1]) if run.scalings else None,
        draw_published(beside),
        *(
            draw_speed(scaling, f"speed-{n}", measured_speed(run.models, scaling.model) if scaling.ours else None)
            for n, scaling in enumerate(run.scalings, start=1)
        ),
        draw_time(run.scalings),
    ]
    return {figure.drawing.name: figure for figure in drawn if figure}


def task_groups(run: Run, beside: Comparison) -> list[TaskGroup]:
    """The figures of downstream tasks, without examples first."""
    shots = {score.shots for model in run.models for score in model.scores}
    shots |= {int(one) for model in beside.models for one in model.scores if one.isdecimal()}
    groups = []
    for number in sorted(shots):
        tasks = tasks_of(run.models, beside, number)
        if tasks:
            figures = tuple(draw_task(task, number, beside) for task in tasks)
            groups.append(TaskGroup(number, figures, tuple(task_keys(tasks, beside))))
    return groups


@cache
def templates() -> Environment:
    """Everything that is filled into them is escaped."""
    environment = Environment(
        loader=PackageLoader("isoflop.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(glyphs=GLYPHS, colours=COLOURS)
    return environment


@cache
def _script(names: tuple[str, ...]) -> str:
    """The page's script: one text, of which the page's policy names the hash, so that no other runs."""
    folder = files("isoflop.report") / "templates" / "script"
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    return "\n(() => {\n" + "\n".join(texts) + "})();\n"


def colour(model: Model, share: float) -> str:
    return "held" if model.held_out else shade(share)


def shares(models: tuple[Model, ...]) -> list[float]:
    """From 0 for the smallest size to 1 for the largest of the ladder."""
    sizes = _sizes_by_params(models)
    return [sizes.index(model.size) / max(len(sizes) - 1, 1) if model.size in sizes else 1.0 for model in models]


def _sizes_by_params(models: tuple[Model, ...]) -> list[str]:
    """The sizes of the ladder, smallest first."""
    params: dict[str, float] = {}
    for model in models:
        source = model.planned or model.result
        if not model.held_out:
            params.setdefault(model.size, (source.params if source else None) or 0.0)
    return sorted(params, key=lambda size: params[size])


def size_keys(models: tuple[Model, ...], colours: dict[str, str]) -> list[Key]:
    """The legend of sizes, with how many seeds each was trained with."""
    runs: dict[str, list[Model]] = {}
    for model in models:
        runs.setdefault(model.size, []).append(model)
    return [
        Key(
            size + f" ({len(same)} seeds)" * (len(same) > 1) + ", held out" * same[0].held_out,
            "line",
            colours[same[0].name],
            size,
        )
        for size, same in runs.items()
    ]


def _domains(manifest: Manifest) -> list[tuple[str, Counts, Counts]]:
    """Domain, its training counts and its held-out counts; most training bytes first."""
    train, held_out = manifest.splits.train.domains, manifest.splits.held_out.domains
    nothing = Counts(documents=0, tokens=0, bytes=0)
    rows = [(name, train.get(name, nothing), held_out.get(name, nothing)) for name in {**train, **held_out}]
    return sorted(rows, key=lambda row: (-row[1].bytes, row[0]))
