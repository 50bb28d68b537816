"""One model of a family: trained on some lanes, measured on the held-out text, its result written."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.durable import SealedLines
from isoflop.errors import WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import TrainingListener
from isoflop.pipeline.result import Domain, Result, fingerprint_of, write_result
from isoflop.pipeline.watch import TrainingWatch

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.evaluate import HeldOutLoss
    from isoflop.model import Lanes
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.systems.group import Systems
    from isoflop.train import Trained


def train_member(
    family: Family,
    plan: "Plan",
    model: "ModelPlan",
    data: "Manifest",
    folder: RunFolder,
    listener: TrainingListener,
    lanes: "Lanes",
) -> Result:
    """Trains `model` to its end on this system, or goes on with it, and writes what came of it.

    Raises:
        Interrupted: a signal came; the last finished step is saved.
        InputError: the checkpoints belong to other settings.
        WorkError: a fault while working; everything done so far is kept.
    """
    listener.starts(model)
    share = min(1.0, lanes.count / plan.machine.lanes)
    trained, joules_origin = train_part(family, plan, model, folder, listener, lanes, share)
    return finish_member(family, plan, model, data, folder, listener, lanes, trained, joules_origin)


def train_part(
    family: Family,
    plan: "Plan",
    model: "ModelPlan",
    folder: RunFolder,
    listener: TrainingListener,
    lanes: "Lanes",
    share: float,
    systems: "Systems | None" = None,
    number: int = 0,
    neighbours: int = 1,
    machines: float = 1.0,
) -> tuple["Trained", str]:
    """This system's part of the training of `model`, and how its joules are known.

    `share` is that of the machine which its `neighbours` systems are, `number` this system's among them; all
    systems together have the rate of so many `machines`.
    """
    from isoflop.systems import EnergyMeter
    from isoflop.systems.device import gpu_uuid, training_device
    from isoflop.systems.group import ALONE
    from isoflop.train import train

    device = training_device(number)
    # A GPU is one system's own; of a processor each has its part.
    watts, part = family.cost.watts_per_system, share / neighbours
    meter = EnergyMeter(
        watts,
        1.0 if watts is not None and device.type == "cuda" else part,
        gpu=gpu_uuid(device),
        cores=plan.machine.cores,
    )
    began = perf_counter()
    trained = train(
        model,
        folder.data,
        folder.model(model.name),
        lanes=lanes,
        systems=systems or ALONE,
        device=device,
        whole_systems=machines * share,
        peak_flops_per_second=machines * share * plan.machine.matrix_flops_per_second(model.precision),
        checkpoint_seconds=family.checkpoint_seconds,
        read_joules=lambda: meter.read(perf_counter() - began).joules,
        on_step=TrainingWatch(plan, model, folder, listener).step,
        on_event=listener.note,
    )
    return trained, meter.read(perf_counter() - began).origin


def finish_member(
    family: Family,
    plan: "Plan",
    model: "ModelPlan",
    data: "Manifest",
    folder: RunFolder,
    listener: TrainingListener,
    lanes: "Lanes",
    trained: "Trained",
    joules_origin: str,
) -> Result:
    """Measures a trained model on the held-out text and writes its result."""
    from isoflop.evaluate import held_out_loss
    from isoflop.systems.device import training_device

    where = model.precision, lanes, training_device()
    if model.on_disk:  # within the memory that its steps took
        microbatch = model.microbatch_sequences * model.shape.context_length
        loss = held_out_loss(trained.weights, folder.data, *where, folder.model(model.name), microbatch)
    else:
        loss = held_out_loss(trained.weights, folder.data, *where)
    if not isfinite(loss.nats_per_token):
        raise WorkError(
            f"{folder.model(model.name)}: the held-out loss is {loss.nats_per_token}: training diverged; "
            "lower recipe.peak_lr and use another --runs folder"
        )
    result = _result(family, plan, model, data, folder, trained, loss, joules_origin)
    write_result(folder, result)
    listener.done(result, fresh=True)
    return result


def _result(
    family: Family,
    plan: "Plan",
    model: "ModelPlan",
    data: "Manifest",
    folder: RunFolder,
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
        domains={name: Domain(**asdict(domain)) for name, domain in loss.domains.items()},
        seconds=trained.seconds,
        joules=trained.joules,
        joules_origin=joules_origin,
        price=None if per_hour is None else per_hour * trained.system_seconds / 3600,
        weights_sha256=weights_sha256(trained.weights),
        systems=plan.systems,
        threads=trained.threads,
        processor=plan.machine.processor,
        torch=plan.machine.torch,
        isoflop=version("isoflop"),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint_of(model, data),
        system_seconds=trained.system_seconds,
        mfu=_mfu(folder.model(model.name) / "metrics.jsonl"),
        changes=trained.changes,
    )


def _mfu(metrics: Path) -> float | None:
    """The median over all logged steps: the first after a start are slow."""
    shares = []
    try:
        for line in SealedLines(metrics).intact(metrics.read_bytes()).splitlines():
            share = json.loads(line).get("mfu")
            if isinstance(share, int | float):
                shares.append(float(share))
    except (OSError, ValueError, AttributeError):
        return None
    return median(shares) if shares else None
