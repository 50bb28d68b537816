"""The GPT: its weights, their initialisation, the forward pass, the loss and its gradients."""

from typing import Literal

from isoflop.model.folding import as_standard
from isoflop.model.fused import FusedGPT
from isoflop.model.gpt import GPT
from isoflop.model.gradients import Gradients
from isoflop.model.inference import Kept, Reader
from isoflop.model.initialisation import initialise
from isoflop.model.kernels import Kernels, load_kernels
from isoflop.model.lanes import Lanes
from isoflop.model.mapped import mapped
from isoflop.model.weights import Piece, Shard, Weights, pieces_of, shards_of, tensor_sizes, weights_sha256
from isoflop.recipe import STANDARD, Parametrisation, Shape

__all__ = [
    "GPT",
    "FusedGPT",
    "Gradients",
    "Kept",
    "Kernels",
    "Lanes",
    "Piece",
    "Reader",
    "Shard",
    "Weights",
    "as_standard",
    "initialise",
    "load_kernels",
    "make_model",
    "mapped",
    "pieces_of",
    "shards_of",
    "tensor_sizes",
    "weights_sha256",
]


def make_model(
    shape: Shape,
    precision: Literal["bf16", "fp32"],
    kernels: Kernels | None,
    parametrisation: Parametrisation = STANDARD,
    recompute: bool = False,
) -> GPT | FusedGPT:
    """The fastest model that this machine can run: with `kernels` theirs, else plain PyTorch.

    With `recompute`, layers leave their input alone in the memory that they are given; plain ones always do.
    """
    plain = GPT(shape, precision, parametrisation)
    return plain if kernels is None else FusedGPT(shape, plain.dtype, kernels, parametrisation, recompute)
