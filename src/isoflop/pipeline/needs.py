"""Whether what is still to be trained fits this machine's memory, the disk of its run directory, and the data."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.config import DataSource, Family
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from isoflop.recipe import ModelPlan, Plan

# What a checkpoint holds of a parameter: weight and two moments, fp32.
CHECKPOINT_BYTES = 12
# What text that is not tokenised yet comes to at least, for a byte of its files: a token of the longest usual ones
# holds five bytes, and compressed text is two and a half times as much (corpora/pocket.jsonl.zst: 3.9 times).
TOKENS_PER_BYTE, COMPRESSED_TOKENS_PER_BYTE = 0.2, 0.5


def unmet_needs(
    family: Family,
    plan: "Plan",
    models: Sequence["ModelPlan"],
    folder: RunFolder,
    systems_here: int = 1,
    train_tokens: int | None = None,
) -> list[str]:
    """What the training of `models` lacks here, a line each; nothing where it fits.

    `systems_here` of the plan's systems share this machine; `train_tokens` is what the data hold, None while it is not
    known. Memory and disk are counted at what is needed for certain: what fits by a hair may still run out, which costs
    nothing that is saved.
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
    stays = [model for model in models if model.execution == "streamed" and model.embeddings_stay]
    if stays:
        largest = max(stays, key=lambda model: model.streamed.host_bytes)
        needed = systems_here * (largest.streamed.device_bytes + largest.streamed.host_bytes)
        there = plan.machine.memory_bytes
        if needed > there:
            lacks.append(
                f"{largest.name} needs {_size(needed)} of memory while its embeddings stay in it, this machine has "
                f"{_size(there)}; leave out streaming.embeddings_stay"
            )
    held = [model for model in models if model.execution == "streamed" and model.store == "host"]
    if held:
        largest = max(held, key=lambda model: model.streamed.host_bytes)
        needed, there = systems_here * largest.streamed.host_bytes, plan.machine.host_memory_bytes
        if needed > there > 0:
            lacks.append(
                f"{largest.name} needs {_size(needed)} of host memory for its store, this machine has {_size(there)}; "
                'leave out streaming.store = "host"'
            )
    return [*lacks, *_disk_lack(family, models, folder, systems_here), *_data_lack(family.data, models, train_tokens)]


def refuse_unmet_needs(
    family: Family,
    plan: "Plan",
    models: Sequence["ModelPlan"],
    folder: RunFolder,
    systems_here: int,
    train_tokens: int,
) -> None:
    """Before the first step.

    Raises:
        InputError: memory, disk or data would not do for `models`.
    """
    lacks = unmet_needs(family, plan, models, folder, systems_here, train_tokens)
    if lacks:
        raise InputError(lacks[0])


def refuse_before_data(family: Family, models: Sequence["ModelPlan"], folder: RunFolder) -> None:
    """Before the data are prepared, for the training of `models` after it.

    Raises:
        InputError: the disk would not hold data and checkpoints, or the tokens that the family file states do not do.
    """
    for lack in [*_disk_lack(family, models, folder, 1), *_data_lack(family.data, models, family.data.tokens)]:
        raise InputError(lack)


def _disk_lack(family: Family, models: Sequence["ModelPlan"], folder: RunFolder, systems_here: int) -> list[str]:
    data, checkpoints = data_bytes(family.data, folder), disk_bytes(family, models, folder, systems_here)
    needed, free = data + checkpoints, shutil.disk_usage(_existing(folder.path)).free
    if needed <= free:
        return []
    parts = [(data, f"about {_size(data)} for the prepared data")]
    parts.append((checkpoints, f"{_size(checkpoints)} for the checkpoints of {len(models)} models"))
    what = " and ".join(part for n_bytes, part in parts if n_bytes)
    return [
        f"{folder.path}: needs {what}, {_size(free)} of disk are free; free some space, or use another --runs folder"
    ]


def _data_lack(data: DataSource, models: Sequence["ModelPlan"], train_tokens: int | None) -> list[str]:
    """Data are repeated only for who asks for it."""
    if train_tokens is None or not models:
        return []
    model = max(models, key=lambda model: model.tokens)
    epochs = model.tokens / train_tokens
    if epochs <= data.epochs:
        return []
    asked = math.ceil(10 * epochs) / 10
    return [
        f"{model.name} reads {model.tokens:,} tokens, {epochs:.2f} epochs of the data, and data.epochs allows "
        f"{data.epochs:g}: write epochs = {asked:g} under [data] to have them repeated, or give more text"
    ]


def memory_bytes(model: "ModelPlan", systems: int, sharing: int) -> int:
    """What `sharing` of a run's resident systems hold at once: each all weights and the sums of all gradients, its part
    of the moments, and together what their lanes keep.
    """
    sums = 8 if model.reproducible else 4
    moments = 8 * model.shape.params // systems
    return sharing * (model.weights_bytes + sums * model.shape.params + moments) + model.activation_bytes


def disk_bytes(family: Family, models: Sequence["ModelPlan"], folder: RunFolder, systems_here: int = 1) -> int:
    """What `models` will take beyond what they take now: those checkpoints that stay on the way, of a run that lasts
    long enough to save twice two generations more, and one store of streamed weights at a time.
    """
    needed, stores = 0, [0]
    for model in models:
        generations = 2 if model.seconds > family.checkpoint_seconds and model.execution == "resident" else 1
        generations += len(model.kept_steps)
        there = _taken(folder.model(model.name))
        needed += max(0, generations * CHECKPOINT_BYTES * model.shape.params - there)
        if model.on_disk:
            stores.append(systems_here * model.streamed.disk_bytes - there)
    return needed + max(stores)


def data_bytes(data: DataSource, folder: RunFolder) -> int:
    """About what the prepared data will take beyond what is there; nothing of a corpus that is tokens already.

    By the tokens that the family file states, else by the size of the corpus's files.
    """
    from isoflop.data.corpus import corpus_files, is_megatron

    if (folder.data / "manifest.json").exists():
        return 0
    if data.tokens is not None:
        tokens = float(data.tokens)
    else:
        files = corpus_files(data)
        if is_megatron(files):
            return 0
        tokens = sum(_least_tokens(data, file.name.lower(), file.bytes) for file in files)
    share = min(1.0, *data.mixture.values()) if data.mixture else 1.0
    return max(0, round(tokens * share) * (2 if data.tokenizer.vocab_size <= 2**16 else 4) - _taken(folder.data))


def _least_tokens(data: DataSource, name: str, n_bytes: int) -> float:
    plain = name.endswith((".jsonl", ".arrow", *data.text_suffixes))
    return n_bytes * (TOKENS_PER_BYTE if plain else COMPRESSED_TOKENS_PER_BYTE)


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
