"""The GPT: its weights, their initialisation, the forward pass and the loss."""

from isoflop.model.folding import as_standard
from isoflop.model.gpt import GPT
from isoflop.model.initialisation import initialise
from isoflop.model.weights import Weights, tensor_sizes, weights_sha256

__all__ = ["GPT", "Weights", "as_standard", "initialise", "tensor_sizes", "weights_sha256"]
