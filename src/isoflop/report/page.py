"""Writes report.html: one page that opens with no network, no script and nothing beside it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from isoflop.data import Counts, Manifest
from isoflop.durable import write_text
from isoflop.report.costs import costs_of, machine_facts
from isoflop.report.drawing import Drawing
from isoflop.report.loss_against_compute import draw_loss_against_compute, law_curve
from isoflop.report.loss_curves import draw_loss_curves
from isoflop.report.numbers import FILTERS
from isoflop.report.run import Model, Run, read_run
from isoflop.report.verdict import Verdict, draw_verdict, judge

# Text in a figure keeps its size only near these widths, so every figure is drawn twice and CSS shows one.
WIDE, NARROW = 960, 380


def write_report(run_directory: Path) -> Path:
    """Writes report.html into `run_directory` from what lies there and returns its path.

    A run that is not finished gives a page that says what is missing.

    Raises:
        InputError: there is no such directory.
        WorkError: the page cannot be written; the one that was there stays.
    """
    run = read_run(run_directory)
    path = run_directory / "report.html"
    write_text(path, render(run, datetime.now(UTC)))
    return path


def render(run: Run, time: datetime) -> str:
    """The page as HTML."""
    verdict = judge(run.forecast, run.models)
    return (
        _templates()
        .get_template("page.html.jinja")
        .render(
            run=run,
            verdict=verdict,
            figures=_figures(run, verdict),
            legend=_legend(run.models),
            costs=costs_of(run.models),
            machine=machine_facts(run.plan.machine) if run.plan else [],
            domains=_domains(run.manifest) if run.manifest else [],
            time=time.isoformat(timespec="seconds"),
        )
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("isoflop.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


@dataclass(frozen=True)
class LegendEntry:
    """A size in the legend; `runs` is how many seeds it was trained with."""

    size: str
    held_out: bool
    shade: float
    runs: int


def _figures(run: Run, verdict: Verdict | None) -> dict[str, list[Drawing]]:
    """Each figure at both widths; a figure with nothing to show is an empty list."""
    shades = {model.name: shade for model, shade in zip(run.models, _shades(run.models), strict=True)}
    curve = law_curve(run.law, run.models, run.forecast) if run.law else None
    drawn: dict[str, list[Drawing | None]] = {"verdict": [], "curves": [], "compute": []}
    for layout, width, heights in (("wide", WIDE, (92, 430, 580)), ("narrow", NARROW, (84, 330, 500))):
        if verdict:
            drawn["verdict"].append(draw_verdict(f"verdict-{layout}", verdict, width, heights[0]))
        drawn["curves"].append(draw_loss_curves(f"curves-{layout}", run.models, shades, width, heights[1]))
        drawn["compute"].append(
            draw_loss_against_compute(f"compute-{layout}", run.models, shades, curve, run.forecast, width, heights[2])
        )
    return {name: [drawing for drawing in drawings if drawing] for name, drawings in drawn.items()}


def _shades(models: tuple[Model, ...]) -> list[float]:
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


def _legend(models: tuple[Model, ...]) -> list[LegendEntry]:
    found: dict[str, LegendEntry] = {}
    for model, shade in zip(models, _shades(models), strict=True):
        before = found.get(model.size)
        found[model.size] = LegendEntry(model.size, model.held_out, shade, before.runs + 1 if before else 1)
    return list(found.values())


def _domains(manifest: Manifest) -> list[tuple[str, Counts, Counts]]:
    """Domain, its training counts and its held-out counts; most training bytes first."""
    train, held_out = manifest.splits.train.domains, manifest.splits.held_out.domains
    nothing = Counts(documents=0, tokens=0, bytes=0)
    rows = [(name, train.get(name, nothing), held_out.get(name, nothing)) for name in {**train, **held_out}]
    return sorted(rows, key=lambda row: (-row[1].bytes, row[0]))
