"""Reads a run directory as far as it has come, and says what is not there yet."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from isoflop.data import Manifest, load_manifest
from isoflop.durable import refuse_broken_seal
from isoflop.errors import InputError, WorkError
from isoflop.law import Law
from isoflop.report.metrics import Metrics, MetricsLog, read_logs
from isoflop.report.records import (
    Comparison,
    Forecast,
    OpenFamily,
    Plan,
    PlannedModel,
    Record,
    Result,
    Scaling,
    Score,
    Scores,
)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Foretold:
    """What is made anew for every report: `scalings` as `isoflop plan --systems --json` tells them, with `ours`; and
    `openness`, this family's row of the table that `isoflop compare --json` prints."""

    scalings: tuple[dict[str, Any], ...] = ()
    openness: dict[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    """One training run: what was planned, what was logged, what came out, what it scores. Each may be missing."""

    name: str
    size: str
    held_out: bool
    planned: PlannedModel | None
    metrics: Metrics | None
    result: Result | None
    family: str = ""
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run directory. Models in the plan's order; `gaps` are sentences about what is missing or damaged; `scalings` is
    what more systems would bring, this family first."""

    family: str
    plan: Plan | None
    models: tuple[Model, ...]
    manifest: Manifest | None
    forecast: Forecast | None
    law: Law | None
    gaps: tuple[str, ...]
    comparison: Comparison | None = None
    openness: OpenFamily | None = None
    scalings: tuple[Scaling, ...] = ()

    @property
    def currency(self) -> str:
        return (self.plan.currency if self.plan else None) or ""


def read_run(directory: Path, foretold: Foretold | None = None, logs: dict[Path, MetricsLog] | None = None) -> Run:
    """Everything in `directory` that the report shows. A file that is missing or damaged becomes a gap, never an error.

    `foretold` is what no file keeps. Given the same `logs` again, it reads of each log only what was added.

    Raises:
        InputError: there is no such directory.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such run directory; give the folder RUNS/FAMILY that isoflop run wrote")
    gaps: list[str] = []
    plan = _read(directory, "plan.json", Plan, gaps, "run isoflop plan")
    manifest = _read_manifest(directory, gaps)
    family = (plan.family if plan else None) or directory.resolve().name
    models = _read_models(directory, family, plan, gaps, {} if logs is None else logs)
    foretells = plan is None or any(model.held_out for model in models)
    forecast = _read(
        directory, "forecast.json", Forecast, gaps, "it is written before the held-out model starts" * foretells
    )
    law = _read_law(directory, gaps)
    comparison = _read(directory, "compare.json", Comparison, gaps, "")
    foretold = foretold or Foretold()
    systems = tuple(Scaling.model_validate(document) for document in foretold.scalings)
    openness = OpenFamily.model_validate(foretold.openness) if foretold.openness else None
    return Run(family, plan, models, manifest, forecast, law, tuple(gaps), comparison, openness, systems)


def _read(directory: Path, name: str, kind: type[R], gaps: list[str], when_missing: str) -> R | None:
    """The record in a JSON file. `when_missing` says how the file comes to be; empty: it need not be there."""
    document = _read_json(directory, name, gaps, when_missing)
    if document is None:
        return None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        gaps.append(f"{name} is damaged ({where}: {first['msg']}); its part of this page is left out.")
        return None


def _read_json(directory: Path, name: str, gaps: list[str], when_missing: str) -> Any:
    try:
        return refuse_broken_seal(json.loads((directory / name).read_bytes(), parse_constant=lambda _: None))
    except FileNotFoundError:
        if when_missing:
            gaps.append(f"{name} is not there yet; {when_missing}.")
    except OSError as error:
        gaps.append(f"{name} cannot be read ({error.strerror}).")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        gaps.append(f"{name} is damaged (not JSON); its part of this page is left out.")
    except ValueError as error:
        gaps.append(f"{name} is damaged ({error}); its part of this page is left out.")
    return None


def _read_manifest(directory: Path, gaps: list[str]) -> Manifest | None:
    name = "data/manifest.json"
    if not (directory / name).exists():
        gaps.append(f"{name} is not there yet; run isoflop data.")
        return None
    try:
        return load_manifest(directory / "data")
    except WorkError as error:
        gaps.append(f"{name} is not shown: {error}.")
        return None


def _read_models(
    directory: Path, family: str, plan: Plan | None, gaps: list[str], logs: dict[Path, MetricsLog]
) -> tuple[Model, ...]:
    planned = {model.name: model for model in plan.models} if plan else {}
    folder = directory / "models"
    # The names of folders, not those in files, make paths: a name like ../../x reads nothing.
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    read = read_logs([folder / name / "metrics.jsonl" for name in found], logs)
    models = []
    for name in [*planned, *(name for name in found if name not in planned)]:
        metrics, result, scores = None, None, None
        if name in found:
            path = folder / name / "metrics.jsonl"
            log, metrics = logs[path], read[path]
            result = _read(directory, f"models/{name}/result.json", Result, gaps, "")
            gaps += _gap_of_log(f"models/{name}/metrics.jsonl", log, metrics, result)
            scores = _read(directory, f"models/{name}/tasks.json", Scores, gaps, "")
        intended = planned.get(name)
        size = (intended.size if intended else None) or (result.size if result else None) or name
        models.append(
            Model(
                name,
                size,
                bool(intended and intended.held_out),
                intended,
                metrics,
                result,
                family,
                scores.scores if scores else (),
            )
        )
    waiting = [model.name for model in models if model.result is None]
    if waiting:
        more = f" and {len(waiting) - 10} more" if len(waiting) > 10 else ""
        gaps.append(f"{len(waiting)} of {len(models)} models have no result yet: {', '.join(waiting[:10])}{more}.")
    return tuple(models)


def _gap_of_log(name: str, log: MetricsLog, metrics: Metrics | None, result: Result | None) -> list[str]:
    steps = 0 if metrics is None else len(metrics.tokens)
    if log.damage:
        return [f"{name} is damaged ({log.damage}); those lines are left out."]
    if result is not None and result.steps is not None and steps < result.steps:
        return [f"{name} has {steps:,} of {result.steps:,.0f} steps; its curve lacks the others."]
    return []


def _read_law(directory: Path, gaps: list[str]) -> Law | None:
    document = _read_json(directory, "law.json", gaps, "run isoflop law once three sizes are trained")
    if document is None:
        return None
    try:
        return Law.from_json(document)
    except InputError as error:
        gaps.append(f"law.json is not shown: it is {error}.")
        return None
