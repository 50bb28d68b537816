"""All weights of a model in one flat fp32 buffer, with a named view for each tensor.

Names and layouts are those of Hugging Face's GPT-2, so a release writes what training holds; matrices are stored
(in, out). The tied head has no entry of its own.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from isoflop.recipe import Shape

LAYER_TENSORS = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)


def tensor_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name and size of every tensor: embeddings, the layers' matrices, then vectors.

    So what shares a learning rate or decays is one range of the buffer.
    """
    d, d_ff = shape.d_model, shape.d_ff
    layer = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, d_ff),
        "mlp.c_fc.bias": (d_ff,),
        "mlp.c_proj.weight": (d_ff, d),
        "mlp.c_proj.bias": (d,),
    }
    sizes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (shape.vocab_size, d),
        "transformer.wpe.weight": (shape.context_length, d),
        "transformer.ln_f.weight": (d,),
        "transformer.ln_f.bias": (d,),
    }
    for i in range(shape.n_layers):
        sizes |= {f"transformer.h.{i}.{name}": size for name, size in layer.items()}
    return dict(sorted(sizes.items(), key=lambda item: len(item[1]) == 1))


class Weights(Mapping[str, Tensor]):
    """A flat buffer (numel,) and its views: fp32 for weights.

    The same layout serves their image, gradients and moments. `offsets` says where in the buffer a tensor begins; the
    first `n_embedding` elements are those of the embeddings, the first `n_matrix` those of all matrices.
    """

    def __init__(self, shape: Shape, flat: Tensor) -> None:
        self.shape = shape
        self.flat = flat
        sizes = tensor_sizes(shape)
        self.n_embedding = shape.params_embedding
        self.n_matrix = sum(math.prod(size) for size in sizes.values() if len(size) == 2)
        ends = itertools.accumulate(math.prod(size) for size in sizes.values())
        self.offsets = dict(zip(sizes, (0, *ends), strict=False))
        pieces = torch.split(flat, [math.prod(size) for size in sizes.values()])
        self._views = {name: piece.view(size) for (name, size), piece in zip(sizes.items(), pieces, strict=True)}

    @classmethod
    def zeros(cls, shape: Shape) -> "Weights":
        """All zero."""
        return cls(shape, torch.zeros(shape.params, dtype=torch.float32))

    def layer(self, i: int) -> list[Tensor]:
        """The tensors of layer `i` in the order of `LAYER_TENSORS`."""
        return [self._views[f"transformer.h.{i}.{name}"] for name in LAYER_TENSORS]

    def __getitem__(self, name: str) -> Tensor:
        view: Tensor = self._views[name]
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the fp32 tensors' little-endian bytes, by sorted name: equal hash, equal weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(array.astype(np.dtype("<f4"), copy=False).data)
    return digest.hexdigest()
