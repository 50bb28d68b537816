"""The learner that a plan asks for, with its state: as it begins, or as a checkpoint has it."""

import shutil
from pathlib import Path

import numpy as np
import torch

from isoflop.durable import cannot_write
from isoflop.model import Kernels, Lanes
from isoflop.recipe import ModelPlan
from isoflop.systems.group import Systems
from isoflop.train.journal import Journal
from isoflop.train.learner import Learner, Learns, Source
from isoflop.train.on_device import DeviceLearner
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner

JOURNAL = "journal.json"


def make_learner(
    plan: ModelPlan,
    data_sha256: str,
    store: Path,
    *,
    lanes: Lanes,
    kernels: Kernels | None,
    systems: Systems,
    device: torch.device,
    source: Source | None,
) -> Learns:
    """Resident or streamed, from `source` on where there is one. A store on disk is made anew in the folder `store`."""
    if plan.execution == "streamed":
        if plan.store == "disk":
            if systems.rank == 0:
                discard_store(store)
                store.mkdir(parents=True)
            systems.gather(np.zeros(0))
        on_device = None if device.type == "cpu" else device
        streamed = open_store(plan, data_sha256, store, lanes=lanes, kernels=kernels, systems=systems, device=on_device)
        if source is None:
            streamed.create(plan.seed)
        else:
            streamed.restore(source)
        return streamed
    kind = Learner if device.type == "cpu" else DeviceLearner
    learner = kind(
        plan.shape,
        seed=plan.seed,
        precision=plan.precision,
        lanes=lanes,
        kernels=kernels if device.type == "cpu" else None,
        optimizer=_optimizer(plan),
        parametrisation=plan.parametrisation,
        systems=systems,
        reproducible=plan.reproducible,
        device=device,
    )
    if source is not None:
        learner.restore(source)
    return learner


def open_store(
    plan: ModelPlan,
    data_sha256: str,
    store: Path,
    *,
    lanes: Lanes,
    kernels: Kernels | None,
    systems: Systems,
    device: torch.device | None = None,
) -> StreamedLearner:
    """A streamed learner, still without its state; it computes on `lanes`, or on `device` where one is given."""
    on_disk = plan.store == "disk"
    return StreamedLearner(
        plan.shape,
        precision=plan.precision,
        lanes=lanes,
        kernels=kernels,
        optimizer=_optimizer(plan),
        parametrisation=plan.parametrisation,
        systems=systems,
        reproducible=plan.reproducible,
        cut=plan.cut(systems.size),
        folder=store if on_disk else None,
        journal=Journal(store / JOURNAL, fingerprint_of(plan, data_sha256)) if on_disk else None,
        device=device,
    )


def discard_store(store: Path) -> None:
    """Removes a store that is needed no more, if there is one: a kill leaves nothing that looks like half of one.

    Raises:
        WorkError: its folder cannot be written.
    """
    discarded = store.with_name(store.name + ".discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    try:
        store.rename(discarded)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(store, error) from error
    shutil.rmtree(discarded, ignore_errors=True)


def fingerprint_of(plan: ModelPlan, data_sha256: str) -> dict[str, object]:
    """Everything that decides the bits of the trained weights."""
    return {**plan.fingerprint(), "data": data_sha256}


def _optimizer(plan: ModelPlan) -> AdamW:
    return AdamW(
        beta1=plan.beta1,
        beta2=plan.beta2,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        clip_norm=plan.clip_norm,
        hidden_lr_multiplier=plan.parametrisation.hidden_lr_multiplier,
    )
