"""The ladder's runs in the order in which they narrow the held-out model's interval most, until it is narrow."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.forecast import foretell
from isoflop.pipeline.law import LADDER_POINTS, ladder_law
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.needs import refuse_unmet_needs, unmet_needs
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.result import read_result
from isoflop.pipeline.train import make_ready, train_models

if TYPE_CHECKING:
    from isoflop.law import Law
    from isoflop.recipe import ModelPlan, Plan

# Before any run a ladder is planned as if its losses fell with this exponent of compute and scattered so much: between
# Dey et al. 2023 (0.07, 0.35 %) and the pocket family (0.1 to 0.15, 0.5 to 1 %).
USUAL_EXPONENT, USUAL_NOISE = 0.08, 0.005
# Runs of the same sizes again do not make a law: `isoflop.law.check_points` refuses fewer.
LEAST_SIZES = 3


@dataclass(frozen=True)
class Designed:
    """A run of the ladder to train, and the target's half-width of 95 % (relative) before it and, as expected, after
    it; both None for the runs with which a law begins."""

    model: str
    flops: int
    half_width_before: float | None
    half_width_after: float | None


@dataclass(frozen=True)
class Narrowed:
    """What training until an interval is narrow came to. `half_width` is that of the target's 95 % interval, relative;
    `reached` says whether it is as narrow as wanted."""

    target: str
    wanted: float
    half_width: float
    reached: bool
    trained: tuple[str, ...]
    left: tuple[str, ...]
    spent_flops: int
    budget_flops: float

    def to_json(self) -> dict[str, Any]:
        """What `isoflop run --until-width --json` prints."""
        return asdict(self)


def parse_width(text: str) -> float:
    """The half-width that `1%` (or 0.01) says.

    Raises:
        InputError: it says none.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise InputError(f"--until-width {text!r}: give a half-width of the 95 % interval, as in 1% or 0.01")
    return value


def design(plan: "Plan", folder: RunFolder, budget_flops: float | None) -> list[Designed]:
    """The ladder's runs that are still to be trained, in order: each narrows the interval of the held-out model most
    for what is left of the budget (default: all of the ladder), as expected from the law so far.

    While there are too few runs for a law, the cheapest of each size come first, and what follows is planned by a law
    as they usually are.

    Raises:
        InputError: the family holds no model out.
    """
    target = _target(plan)
    done, waiting = _split(plan, folder)
    left = _budget(plan, budget_flops) - sum(model.flops for model in done)
    begin = _beginning(done, waiting)
    if not begin:
        return _bought(ladder_law(plan, folder), target, waiting, left)
    first: list[Designed] = []
    for model in begin:
        if model.flops > left:
            return first
        first.append(Designed(model.name, model.flops, None, None))
        left -= model.flops
    known = [*done, *begin]
    if len({model.shape.params for model in known}) < LADDER_POINTS:
        return first
    return first + _bought(_usual_law(known), target, [model for model in waiting if model not in begin], left)


def run_until(
    family: Family, folder: RunFolder, listener: Listener, wanted: float, budget_flops: float | None
) -> Narrowed:
    """Trains runs of the ladder one by one, each chosen by the law of those before it, until the held-out model's
    interval is `wanted` or the budget ends; then writes its forecast. Stopped at any moment, it goes on where it was:
    what is trained is counted.

    Raises:
        As `train_family`; InputError: the family holds no model out, the ladder or the budget is too small for a law,
            or this machine or the data would not do for a run that might be chosen. Nothing is trained then.
    """
    plan = make_plan(family, folder)
    target, budget = _target(plan), _budget(plan, budget_flops)
    _refuse_no_law(plan, folder, budget)
    with locked(folder):
        data = make_ready(family, plan, plan.ladder, folder, listener)
        done, waiting = _split(plan, folder)
        left = budget - sum(model.flops for model in done)
        # Each run asks again before it begins; the dearest would be refused only after hours of the others.
        payable = [model for model in waiting if model.flops <= left]
        refuse_unmet_needs(family, plan, payable, folder, 1, data.splits.train.tokens)
        for lack in unmet_needs(family, plan, [target], folder, 1, data.splits.train.tokens):
            listener.note(f"foretold, but not to be trained so: {lack}")
        while True:
            done, waiting = _split(plan, folder)
            half = math.inf
            if not _beginning(done, waiting):
                half = _half_width(ladder_law(plan, folder), target)
                listener.note(f"{target.name}: 95 % interval +-{100 * half:.2f} % after {len(done)} runs")
            chosen = design(plan, folder, budget) if half > wanted else []
            if not chosen:
                break
            train_models(family, plan, data, folder, listener, chosen[0].model)
        foretell(plan, folder, listener, partly=True)
    names = tuple(model.name for model in waiting)
    spent = sum(model.flops for model in done)
    return Narrowed(
        target.name, wanted, half, half <= wanted, tuple(model.name for model in done), names, spent, budget
    )


def _refuse_no_law(plan: "Plan", folder: RunFolder, budget: float) -> None:
    """Before anything is trained: whether the ladder, and what may be spent on it, come to a law at all."""
    if len(plan.ladder) < LADDER_POINTS or len({model.shape.params for model in plan.ladder}) < LEAST_SIZES:
        raise InputError(
            f"--until-width: a law needs {LADDER_POINTS} runs of {LEAST_SIZES} sizes or more below "
            f"{_target(plan).name}, the family has {len(plan.ladder)}; list more models"
        )
    done, waiting = _split(plan, folder)
    needed = sum(model.flops for model in [*done, *_beginning(done, waiting)])
    if _beginning(done, waiting) and needed > budget:
        raise InputError(f"--budget {budget:g}: a law begins with runs that take {needed:.4g} FLOPs; raise it")


def _target(plan: "Plan") -> "ModelPlan":
    if not plan.held_out:
        raise InputError("the family holds no model out: there is no target whose interval to narrow")
    return plan.held_out[0]


def _budget(plan: "Plan", budget_flops: float | None) -> float:
    if budget_flops is None:
        return float(sum(model.flops for model in plan.ladder))
    if not budget_flops > 0:
        raise InputError(f"--budget {budget_flops:g}: give FLOPs above 0")
    return budget_flops


def _split(plan: "Plan", folder: RunFolder) -> tuple[list["ModelPlan"], list["ModelPlan"]]:
    done = [model for model in plan.ladder if read_result(folder, model.name) is not None]
    return done, [model for model in plan.ladder if model not in done]


def _beginning(done: Sequence["ModelPlan"], waiting: Sequence["ModelPlan"]) -> list["ModelPlan"]:
    """The cheapest runs of sizes not yet trained, as many as a law still lacks"""
    sizes = {model.shape.params for model in done}
    lacking = []
    for model in sorted(waiting, key=lambda model: model.flops):
        if len(sizes) < LADDER_POINTS and model.shape.params not in sizes:
            sizes.add(model.shape.params)
            lacking.append(model)
    return lacking


def _usual_law(known: Sequence["ModelPlan"]) -> "Law":
    """A law of runs as if they had been trained and nothing special had come of it"""
    import numpy as np

    from isoflop.law import fit_law
    from isoflop.law.points import COUNTED_HERE, Point

    noise = np.random.default_rng(0).normal(0, USUAL_NOISE, len(known))
    return fit_law(
        [
            Point(
                params=float(model.shape.params),
                tokens=float(model.tokens),
                loss=3.0 * (model.flops / known[0].flops) ** -USUAL_EXPONENT * math.exp(off),
                flops=float(model.flops),
                run=model.name,
                convention=COUNTED_HERE,
            )
            for model, off in zip(known, noise, strict=True)
        ]
    )


def _half_width(law: "Law", target: "ModelPlan") -> float:
    said = law.predict(float(target.shape.params), float(target.tokens), float(target.flops))
    return math.log(said.high_95 / said.low_95) / 2


def _bought(law: "Law", target: "ModelPlan", waiting: Sequence["ModelPlan"], left: float) -> list[Designed]:
    from isoflop.law.design import buy

    rest = [model for model in waiting if model.flops <= left]
    if not rest:
        return []
    seeds: dict[tuple[float, float], list[ModelPlan]] = {}
    for model in rest:
        seeds.setdefault((float(model.shape.params), float(model.tokens)), []).append(model)
    aim = (float(target.shape.params), float(target.tokens))
    costs = [float(models[0].flops) for models in seeds.values()]
    copies = [len(models) for models in seeds.values()]
    found = []
    for run in buy(law, [aim], list(seeds), left, len(rest), costs, copies):
        model = seeds[run.params, run.tokens].pop(0)
        found.append(Designed(model.name, model.flops, run.half_width_before, run.half_width_after))
    # Where nothing is expected to narrow it, the dearest run tells most of how far the forms stray.
    return found or [Designed(max(rest, key=lambda m: m.flops).name, max(m.flops for m in rest), None, None)]
