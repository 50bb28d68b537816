"""Trains a family: the ladder, smallest first; then the forecast; then the model that was held out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from time import perf_counter
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.forecast import foretell
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import make_plan, store_plan, tell_epochs
from isoflop.pipeline.result import Result, fingerprint_of, read_result, refuse_changes, write_result

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.evaluate import HeldOutLoss
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.train import Trained


def train_family(family: Family, folder: RunFolder, listener: Listener, only: str | None = None) -> list[Result]:
    """The results of all models of the family, or of the one named `only`; what is missing is prepared and trained.

    Raises:
        InputError: the plan or the data cannot work, or the folder holds results of other settings.
        WorkError: a fault while working; everything done so far is kept.
    """
    plan = make_plan(family, folder)
    names = [model.name for model in plan.models]
    if only is not None and only not in names:
        raise InputError(f"--model {only}: no such model in family {plan.family}; use one of {', '.join(names)}")
    with locked(folder):
        data = make_ready(family, plan, folder, listener)
        return train_models(family, plan, data, folder, listener, only)


def make_ready(family: Family, plan: "Plan", folder: RunFolder, listener: Listener) -> "Manifest":
    """Prepares the data, checks that plan, data and earlier results fit, and only then writes the plan."""
    data = prepare_data(family, folder, listener)
    tell_epochs(plan, data, listener)
    refuse_changes(folder, plan, data)
    store_plan(family, plan, folder)
    return data


def train_models(
    family: Family, plan: "Plan", data: "Manifest", folder: RunFolder, listener: Listener, only: str | None = None
) -> list[Result]:
    """The results, smallest model first; the forecast is made between the ladder and the held-out models."""

    def results_of(models: Sequence["ModelPlan"]) -> list[Result]:
        wanted = [model for model in models if only in (None, model.name)]
        return [_result_of(family, plan, model, data, folder, listener) for model in wanted]

    ladder = results_of(plan.ladder)
    if only is None or only in [model.name for model in plan.held_out]:
        foretell(plan, folder, listener)
    return ladder + results_of(plan.held_out)


def _result_of(
    family: Family, plan: "Plan", model: "ModelPlan", data: "Manifest", folder: RunFolder, listener: Listener
) -> Result:
    result = read_result(folder, model.name)
    if result is not None:
        listener.done(result, fresh=False)
        return result
    from isoflop.evaluate import held_out_loss
    from isoflop.systems import EnergyMeter
    from isoflop.train import train

    listener.starts(model)
    meter, began = EnergyMeter(family.cost.watts_per_system), perf_counter()
    trained = train(
        model,
        folder.data,
        folder.model(model.name),
        threads=plan.machine.threads,
        peak_flops_per_second=plan.machine.matrix_flops_per_second(model.precision),
        checkpoint_seconds=family.checkpoint_seconds,
        read_joules=lambda: meter.read(perf_counter() - began).joules,
        on_step=lambda step: listener.step(model, step),
        on_event=listener.note,
    )
    loss = held_out_loss(trained.weights, folder.data, model.precision)
    if not isfinite(loss.nats_per_token):
        raise WorkError(
            f"{folder.model(model.name)}: the held-out loss is {loss.nats_per_token}: training diverged; "
            "lower recipe.peak_lr and use another --runs folder"
        )
    origin = meter.read(perf_counter() - began).origin
    result = _result(family, plan, model, data, trained, loss, origin)
    write_result(folder, result)
    listener.done(result, fresh=True)
    return result


def _result(
    family: Family,
    plan: "Plan",
    model: "ModelPlan",
    data: "Manifest",
    trained: "Trained",
    loss: "HeldOutLoss",
    joules_origin: str,
) -> Result:
    from isoflop.model import weights_sha256

    per_hour = family.cost.price_per_system_hour
    return Result(
        name=model.name,
        size=model.size,
        seed=model.seed,
        params=model.shape.params,
        params_non_embedding=model.shape.params_non_embedding,
        tokens=trained.tokens,
        steps=trained.steps,
        flops=model.flops,
        nats_per_token=loss.nats_per_token,
        bits_per_byte=loss.bits_per_byte,
        held_out_tokens=loss.tokens,
        held_out_bytes=loss.bytes,
        seconds=trained.seconds,
        joules=trained.joules,
        joules_origin=joules_origin,
        price=None if per_hour is None else per_hour * plan.systems * trained.seconds / 3600,
        weights_sha256=weights_sha256(trained.weights),
        threads=trained.threads,
        processor=plan.machine.processor,
        torch=plan.machine.torch,
        isoflop=version("isoflop"),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint_of(model, data),
    )
