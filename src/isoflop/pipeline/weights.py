"""The weights of a training, as a checkpoint has them: the only place that reads one but training itself."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.durable import sha256_of_file
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener

if TYPE_CHECKING:
    from isoflop.model import Weights
    from isoflop.recipe import ModelPlan


def finished_weights(model: "ModelPlan", folder: RunFolder, listener: Listener) -> "Weights":
    """The weights of `model` at the end of its training, as a standard GPT-2's.

    Raises:
        WorkError: no good checkpoint holds them.
        InputError: the checkpoint belongs to other settings.
    """
    checkpoints = _checkpoints(model, folder)
    found = _weights_in(checkpoints, model, folder, model.steps, listener)
    if found is None:
        raise WorkError(
            f"{checkpoints}: holds no good checkpoint of the end of the training; "
            f"delete {folder.result(model.name)} and run isoflop train: it goes on from what there is"
        )
    return found[0]


def saved_steps(model: "ModelPlan", folder: RunFolder) -> list[int]:
    """After which steps a checkpoint was kept, in order."""
    found = (re.fullmatch(r"gen-(\d{8,})", path.name) for path in _checkpoints(model, folder).glob("gen-*"))
    return sorted(int(match[1]) for match in found if match)


def weights_at(model: "ModelPlan", folder: RunFolder, step: int, listener: Listener) -> "tuple[Weights, int]":
    """The weights of `model` after that step, as a standard GPT-2's, and the tokens read until then.

    Raises:
        InputError: there is no checkpoint of it, or it belongs to other settings.
        WorkError: it is damaged.
    """
    steps = saved_steps(model, folder)
    if step not in steps:
        there = ", ".join(f"{one:,}" for one in steps) or "none"
        raise InputError(f"{model.name}: no checkpoint of step {step:,}; there are {there}")
    checkpoint = _checkpoints(model, folder) / f"gen-{step:08d}"
    with tempfile.TemporaryDirectory() as alone:  # reading takes the newest of a folder: here it is the only one
        (Path(alone) / checkpoint.name).symlink_to(checkpoint.resolve())
        found = _weights_in(Path(alone), model, folder, step, listener)
    if found is None:
        raise WorkError(f"{checkpoint}: damaged; leave its step out")
    return found


def _checkpoints(model: "ModelPlan", folder: RunFolder) -> Path:
    return folder.model(model.name) / "checkpoints"


def _weights_in(
    checkpoints: Path, model: "ModelPlan", folder: RunFolder, step: int, listener: Listener
) -> "tuple[Weights, int] | None":
    """Those of the newest checkpoint if it is of that step, and its tokens."""
    from isoflop.model import Weights, as_standard, mapped, shards_of
    from isoflop.train.checkpoint import load_newest

    generation = load_newest(checkpoints, model, sha256_of_file(folder.data / "manifest.json"), listener.note)
    if generation is None or generation.position.steps != step:
        return None
    if model.on_disk:  # there may be no memory for them
        weights = Weights(model.shape, mapped(folder.model(model.name), model.shape.params))
    else:
        weights = Weights.zeros(model.shape)
    for shard in shards_of(model.shape):
        weights.flat[shard.start : shard.stop] = generation.read(shard)["weights"]
    return as_standard(weights, model.parametrisation), generation.position.tokens
