"""Initial weights: a function of shape, parametrisation and seed alone, tensor by tensor."""

import hashlib

import numpy as np
import torch

from isoflop.model.weights import Piece, Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape


def initialise(
    shape: Shape, seed: int, parametrisation: Parametrisation = STANDARD, piece: Piece | None = None
) -> Weights:
    """The initial weights, or those of one piece alone.

    N(0, 0.02) for matrices and embeddings, with both residual projections scaled by 1 / sqrt(2 x layers).

    Norm gains are one, biases zero (Radford et al. 2019, sec. 2.3; Dey et al. 2023, sec. 2.1). A parametrisation sets
    other deviations, and where the normal is cut. Every tensor has its own Philox stream keyed by seed and name, so a
    layer can be drawn without drawing those before it.
    """
    elements = shape.params if piece is None else piece.stop - piece.start
    weights = Weights(shape, torch.zeros(elements), piece)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            drawn = _normal(f"{seed}/{name}", tuple(tensor.shape), parametrisation.init_truncation)
            tensor.copy_(torch.from_numpy(drawn)).mul_(_deviation(name, shape, parametrisation))
        elif name.endswith("weight"):
            tensor.fill_(1.0)
    return weights


def _deviation(name: str, shape: Shape, parametrisation: Parametrisation) -> float:
    """Standard deviation of a matrix before any truncation."""
    if name in ("transformer.wte.weight", "transformer.wpe.weight"):
        return parametrisation.embedding_init_std
    if not name.endswith("c_proj.weight"):
        return parametrisation.hidden_init_std
    return parametrisation.residual_std(shape.n_layers)


def _normal(
    stream: str, size: tuple[int, ...], truncation: float | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Standard normal numbers; those beyond `truncation` are drawn again, which leaves the others as they are."""
    key = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    drawn = generator.standard_normal(size, dtype=np.float32)
    while truncation is not None and (beyond := np.abs(drawn) > truncation).any():
        drawn[beyond] = generator.standard_normal(int(beyond.sum()), dtype=np.float32)
    return drawn
