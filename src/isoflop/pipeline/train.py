"""Trains a family: the ladder, smallest first; then the forecast; then the model that was held out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.forecast import foretell
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.member import train_member
from isoflop.pipeline.needs import refuse_before_data, refuse_unmet_needs
from isoflop.pipeline.plan import make_plan, store_plan, tell_epochs
from isoflop.pipeline.result import Result, read_result, refuse_changes
from isoflop.pipeline.side_by_side import train_side_by_side

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.pipeline.systems import Leader
    from isoflop.recipe import ModelPlan, Plan

# A step this short (some tenths of a second on two cores) is better taken by one lane than cut for several: members of
# the family are then trained side by side.
SMALL_STEP_FLOPS = 5e10


def train_family(
    family: Family,
    folder: RunFolder,
    listener: Listener,
    only: str | None = None,
    leader: "Leader | None" = None,
) -> list[Result]:
    """The results of all models of the family, or of the one named `only`; what is missing is prepared and trained.

    A `leader` trains on its group of systems; without one, this process does.

    Raises:
        InputError: the plan or the data cannot work, or the folder holds results of other settings.
        WorkError: a fault while working; everything done so far is kept.
    """
    plan = make_plan(family, folder)
    names = [model.name for model in plan.models]
    if only is not None and only not in names:
        raise InputError(f"--model {only}: no such model in family {plan.family}; use one of {', '.join(names)}")
    with locked(folder):
        wanted = [model for model in plan.models if only in (None, model.name)]
        data = make_ready(family, plan, wanted, folder, listener)
        return train_models(family, plan, data, folder, listener, only, leader)


def make_ready(
    family: Family, plan: "Plan", wanted: Sequence["ModelPlan"], folder: RunFolder, listener: Listener
) -> "Manifest":
    """Prepares the data for the `wanted` models, checks that plan, data and earlier results fit, and only then writes
    the plan.
    """
    if not (folder.data / "manifest.json").exists():
        missing = [model for model in wanted if not folder.result(model.name).exists()]
        refuse_before_data(family, missing, folder)
    data = prepare_data(family, folder, listener)
    tell_epochs(plan, data, listener)
    refuse_changes(folder, plan, data)
    store_plan(family, plan, folder)
    return data


def train_models(
    family: Family,
    plan: "Plan",
    data: "Manifest",
    folder: RunFolder,
    listener: Listener,
    only: str | None = None,
    leader: "Leader | None" = None,
) -> list[Result]:
    """The results, smallest model first; the forecast is made between the ladder and the held-out models."""

    def results_of(models: Sequence["ModelPlan"]) -> list[Result]:
        wanted = [model for model in models if only in (None, model.name)]
        results = {model.name: read_result(folder, model.name) for model in wanted}
        for result in results.values():
            if result is not None:
                listener.done(result, fresh=False)
        missing = [model for model in wanted if results[model.name] is None]
        if leader is not None:
            results |= {model.name: leader.train(family, plan, model, data, folder, listener) for model in missing}
            return [result for result in results.values() if result is not None]
        small = [model for model in missing if model.flops / model.steps < SMALL_STEP_FLOPS]
        # Full rounds only: a model left over is done sooner by all lanes.
        rounds = small[: len(small) - len(small) % plan.machine.lanes]
        if plan.machine.lanes > 1 and rounds:
            for result in train_side_by_side(family, plan, rounds, data, folder, listener):
                results[result.name] = result
        for model in missing:
            if results[model.name] is None:
                from isoflop.model import Lanes

                with Lanes(plan.machine.lanes) as lanes:
                    results[model.name] = train_member(family, plan, model, data, folder, listener, lanes)
        return [result for result in results.values() if result is not None]

    missing = [model for model in plan.models if read_result(folder, model.name) is None]
    systems_here = 1 if leader is None else leader.systems_here
    wanted = [model for model in missing if only in (None, model.name)]
    refuse_unmet_needs(family, plan, wanted, folder, systems_here, data.splits.train.tokens)
    if missing:
        from isoflop.model import load_kernels

        if load_kernels() is None:
            listener.note("no C compiler found: training runs without its kernels, slower (install gcc for full speed)")
    ladder = results_of(plan.ladder)
    for result in ladder:
        if result.changes:
            listener.note(f"{result.name}: its settings were changed on the way; the law takes it for one of its last")
    if only is None or only in [model.name for model in plan.held_out]:
        foretell(plan, folder, listener)
    return ladder + results_of(plan.held_out)
