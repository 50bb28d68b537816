"""The weights of a finished training, as its last checkpoint has them."""

from typing import TYPE_CHECKING

from isoflop.durable import sha256_of_file
from isoflop.errors import WorkError
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
    from isoflop.model import Weights, as_standard, shards_of
    from isoflop.train.checkpoint import load_newest

    checkpoints = folder.model(model.name) / "checkpoints"
    generation = load_newest(checkpoints, model, sha256_of_file(folder.data / "manifest.json"), listener.note)
    if generation is None or generation.position.steps != model.steps:
        raise WorkError(
            f"{checkpoints}: holds no good checkpoint of the end of the training; "
            f"delete {folder.result(model.name)} and run isoflop train: it goes on from what there is"
        )
    weights = Weights.zeros(model.shape)
    for shard in shards_of(model.shape):
        weights.flat[shard.start : shard.stop] = generation.read(shard)["weights"]
    return as_standard(weights, model.parametrisation)
