"""Initial weights: a function of shape and seed alone, tensor by tensor."""

import hashlib
import math

import numpy as np
import torch

from isoflop.model.weights import Weights
from isoflop.recipe import Shape

STANDARD_DEVIATION = 0.02


def initialise(shape: Shape, seed: int) -> Weights:
    """N(0, 0.02) for matrices and embeddings, with both residual projections scaled by 1 / sqrt(2 x layers).

    Norm gains are one, biases zero (Radford et al. 2019, sec. 2.3; Dey et al. 2023, sec. 2.1). Every tensor has its own
    Philox stream keyed by seed and name, so a layer can be drawn without drawing those before it.
    """
    weights = Weights.zeros(shape)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            residual = name.endswith("c_proj.weight")
            scale = STANDARD_DEVIATION / (math.sqrt(2 * shape.n_layers) if residual else 1.0)
            tensor.copy_(torch.from_numpy(_normal(f"{seed}/{name}", tuple(tensor.shape)))).mul_(scale)
        elif name.endswith("weight"):
            tensor.fill_(1.0)
    return weights


def _normal(stream: str, size: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    key = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(size, dtype=np.float32)
