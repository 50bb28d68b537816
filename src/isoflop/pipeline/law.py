"""The law of a run directory, or of anyone's points, and its test on the largest run."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.durable import refuse_broken_seal, to_json, write_sealed
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import Result, read_result, read_results

if TYPE_CHECKING:
    from isoflop.law import Law, Point, Prediction
    from isoflop.law.design import Purchase
    from isoflop.recipe import Plan

# With three, a bend cannot be told from noise.
LADDER_POINTS = 4


@dataclass(frozen=True)
class HeldOut:
    """A run that the test's law did not see: what the law says of it, and what was measured."""

    run: str
    predicted: "Prediction"
    measured: float

    @property
    def error(self) -> float:
        """The loss measured over the loss predicted, less one."""
        return self.measured / self.predicted.loss - 1

    @property
    def inside_80(self) -> bool:
        return self.predicted.low_80 <= self.measured <= self.predicted.high_80

    @property
    def inside_95(self) -> bool:
        return self.predicted.low_95 <= self.measured <= self.predicted.high_95

    def to_json(self) -> dict[str, Any]:
        """What `isoflop law --json` says under `held_out`."""
        verdict = {"inside_80": self.inside_80, "inside_95": self.inside_95, "error": self.error}
        return {"run": self.run, "measured": self.measured, **verdict}


def law_of(path: Path, objective: str = "huber") -> tuple["Law", list[HeldOut]]:
    """The law, and how it foretells the largest compute from the rest. `objective` as `fit_law` takes it.

    `path` is a CSV file, whose law is fitted to all its points, or a run directory, whose law is fitted to the ladder
    alone and kept in law.json. The test is empty where the points are too few for one.

    Raises:
        InputError: there are no such points, or too few for a law.
        WorkError: law.json cannot be written.
    """
    if not path.is_dir():
        from isoflop.law import fit_law, read_points

        points = read_points(path)
        return fit_law(points, objective=objective), _test_on_largest(points, objective)
    folder = find_run(path)
    _, plan = stored_plan(folder)
    law = ladder_law(plan, folder, objective)
    results = [read_result(folder, model.name) for model in plan.held_out]
    return law, [_judge(law, point) for point in points_of([result for result in results if result])]


def next_runs(law: "Law", target: str, budget_flops: float) -> list["Purchase"]:
    """The runs whose training would narrow the interval of the target (PARAMS,TOKENS) most, for a budget.

    Raises:
        InputError: the target or the budget is no such thing, or the budget pays for no run.
    """
    from isoflop.law.design import buy, candidates_for
    from isoflop.pipeline.predict import parse_target

    wanted = parse_target(target)
    if not budget_flops > 0:
        raise InputError(f"--budget {budget_flops:g}: give FLOPs above 0")
    return buy(law, [(wanted.params, wanted.tokens)], candidates_for(law, wanted.params, wanted.tokens), budget_flops)


def ceiling_of(folder: RunFolder) -> float | None:
    """Loss (nats/token) without any training; None of a run whose tokens were deleted, to have the room.

    Raises:
        WorkError: tokens have changed or cannot be read.
    """
    manifest = folder.data / "manifest.json"
    return _ceiling(folder.data, manifest.stat().st_mtime_ns) if manifest.exists() else None


@lru_cache(maxsize=8)
def _ceiling(data: Path, changed: int) -> float:
    """Once for data that last changed then: every model of a run is watched beneath the same ceiling."""
    from isoflop.data import frequency_loss

    return frequency_loss(data)


def ladder_law(plan: "Plan", folder: RunFolder, objective: str = "huber") -> "Law":
    """The law of the ladder's results: law.json if it was fitted to just these, else fitted and written there (only
    with the objective that forecasts are made by).

    Raises:
        InputError: the results are too few, or one is gone that law.json was fitted to.
    """
    from isoflop.law import Law, fit_law

    points = points_of(ladder_results(plan, folder))
    document = _law_document(folder)
    fitted = document.get("points")
    _refuse_gone(fitted, points, plan, folder)
    if document.get("objective") == objective and fitted == json.loads(to_json([asdict(point) for point in points])):
        with suppress(InputError):  # another version's is fitted anew
            return Law.from_json(document)
    if not points:
        raise InputError(
            f"{folder.path}: no model of the ladder is trained yet; run isoflop train with the family file"
        )
    try:
        law = fit_law(points, ceiling=ceiling_of(folder), objective=objective)
    except InputError as error:
        raise InputError(f"{folder.path}: {error}") from None
    if objective == "huber":
        write_sealed(folder.law, law.to_json())
    return law


def _law_document(folder: RunFolder) -> dict[str, Any]:
    """What law.json holds; nothing if it is not there, or damaged: it is fitted anew then."""
    try:
        document = refuse_broken_seal(json.loads(folder.law.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _refuse_gone(fitted: Any, points: Sequence["Point"], plan: "Plan", folder: RunFolder) -> None:
    """A result that was lost must not make another law in silence."""
    there = {point.run for point in points}
    was = {point.get("run") for point in fitted if isinstance(point, dict)} if isinstance(fitted, list) else set()
    for model in plan.ladder:
        if model.name in was - there:
            raise InputError(
                f"{folder.result(model.name)}: gone, and law.json was fitted to it; run isoflop train with the family "
                "file, whose checkpoint gives it back, or delete law.json for a law without it"
            )


def ladder_results(plan: "Plan", folder: RunFolder) -> list[Result]:
    """The results of the models that the law is fitted on."""
    held_out = {model.name for model in plan.held_out}
    return [result for result in read_results(folder, plan) if result.name not in held_out]


def points_of(results: Sequence[Result]) -> list["Point"]:
    """One point a result; seeds of a size are runs of their own."""
    from isoflop.law.points import COUNTED_HERE, Point

    return [
        Point(
            params=float(result.params),
            tokens=float(result.tokens),
            loss=result.nats_per_token,
            flops=float(result.flops),
            run=result.name,
            convention=COUNTED_HERE,
        )
        for result in results
    ]


def _test_on_largest(points: Sequence["Point"], objective: str) -> list[HeldOut]:
    """Holds out the runs of the largest budget, all their points with them."""
    from math import log

    from isoflop.law import fit_law
    from isoflop.law.points import budget_of

    points = list(dict.fromkeys(points))  # a row given twice is one run
    budgets = budget_of([log(point.flops) for point in points])
    largest = [point for point, budget in zip(points, budgets, strict=True) if budget == max(budgets)]
    runs = {point.run for point in largest}
    rest = [point for point in points if point.run not in runs]
    if len(rest) < LADDER_POINTS:
        return []
    try:
        law = fit_law(rest, objective=objective)
    except InputError:
        return []
    return [_judge(law, point) for point in largest]


def _judge(law: "Law", point: "Point") -> HeldOut:
    return HeldOut(point.run, law.predict(point.params, point.tokens, point.flops), point.loss)
