"""Whether what is still to be trained fits this machine's memory and the disk of its run directory."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from isoflop.recipe import ModelPlan, Plan

# What a checkpoint holds of a parameter: weight and two moments, fp32.
CHECKPOINT_BYTES = 12


def unmet_needs(
    family: Family, plan: "Plan", models: Sequence["ModelPlan"], folder: RunFolder, systems_here: int = 1
) -> list[str]:
    """What the training of `models` lacks here, a line each; nothing where it fits.

    `systems_here` of the plan's systems share this machine. Both counts are of what is needed for certain: what fits by
    a hair may still run out, which costs nothing that is saved.
    """
    lacks = []
    resident = [model for model in models if model.execution == "resident"]
    if resident:
        largest = max(resident, key=lambda model: model.shape.params)
        sharing = 1 if plan.machine.device == "cuda" else systems_here
        needed, there = memory_bytes(largest, plan.systems, sharing), plan.machine.memory_bytes
        if needed > there:
            lacks.append(
                f"{largest.name} needs {_size(needed)} of memory to train, this machine has {_size(there)}; "
                "train a smaller model, or on a machine with more"
            )
    needed, free = disk_bytes(family, models, folder), shutil.disk_usage(_existing(folder.path)).free
    if needed > free:
        lacks.append(
            f"{folder.path}: the checkpoints of {len(models)} models need {_size(needed)} of disk, {_size(free)} are "
            "free; free some space, or use another --runs folder"
        )
    return lacks


def refuse_unmet_needs(
    family: Family, plan: "Plan", models: Sequence["ModelPlan"], folder: RunFolder, systems_here: int
) -> None:
    """Before the first step.

    Raises:
        InputError: memory or disk would not do for `models`.
    """
    lacks = unmet_needs(family, plan, models, folder, systems_here)
    if lacks:
        raise InputError(lacks[0])


def memory_bytes(model: "ModelPlan", systems: int, sharing: int) -> int:
    """What `sharing` of a run's resident systems hold at once: each all weights and the sums of all gradients, its part
    of the moments, and together what their lanes keep.
    """
    sums = 8 if model.reproducible else 4
    moments = 8 * model.shape.params // systems
    return sharing * (model.weights_bytes + sums * model.shape.params + moments) + model.activation_bytes


def disk_bytes(family: Family, models: Sequence["ModelPlan"], folder: RunFolder) -> int:
    """What the checkpoints of `models` will take beyond what they take now: two generations of a run that lasts long
    enough to save twice.
    """
    needed = 0
    for model in models:
        generations = 2 if model.seconds > family.checkpoint_seconds and model.execution == "resident" else 1
        there = _taken(folder.model(model.name))
        needed += max(0, generations * CHECKPOINT_BYTES * model.shape.params - there)
    return needed


def _taken(folder: Path) -> int:
    # A generation may go while we look: another process's lock is not asked for by `isoflop plan`.
    taken = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                taken += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return taken


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError
