"""All weights of a model in one flat fp32 buffer, with a named view for each tensor.

Names and layouts are those of Hugging Face's GPT-2, so a release writes what training holds; matrices are stored
(in, out). The tied head has no entry of its own.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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

SHARD = 2**24  # elements: 64 MiB of fp32


@dataclass(frozen=True)
class Piece:
    """What visits a device together: the embeddings, one layer, or the last LayerNorm.

    It is the range [start : stop] of the flat buffer: matrices, which decay, up to `vectors`, then vectors.
    """

    name: str
    start: int
    vectors: int
    stop: int

    @property
    def hidden(self) -> bool:
        """Whether it is a layer."""
        return self.name.startswith("layer")


def tensor_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name and size of every tensor in the order of the flat buffer: piece by piece, matrices before vectors."""
    return {name: size for sizes in _sizes_by_piece(shape).values() for name, size in sizes.items()}


def pieces_of(shape: Shape) -> tuple[Piece, ...]:
    """The pieces in the order of the flat buffer: embedding, the layers, final."""
    found, start = [], 0
    for name, sizes in _sizes_by_piece(shape).items():
        vectors = start + sum(math.prod(size) for size in sizes.values() if len(size) == 2)
        stop = start + sum(math.prod(size) for size in sizes.values())
        found.append(Piece(name, start, vectors, stop))
        start = stop
    return tuple(found)


def _sizes_by_piece(shape: Shape) -> dict[str, dict[str, tuple[int, ...]]]:
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
    layer = dict(sorted(layer.items(), key=lambda item: len(item[1]) == 1))
    sizes: dict[str, dict[str, tuple[int, ...]]] = {
        "embedding": {
            "transformer.wte.weight": (shape.vocab_size, d),
            "transformer.wpe.weight": (shape.context_length, d),
        }
    }
    for i in range(shape.n_layers):
        sizes[f"layer {i}"] = {f"transformer.h.{i}.{name}": size for name, size in layer.items()}
    sizes["final"] = {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}
    return sizes


@dataclass(frozen=True)
class Shard:
    """A fixed part of a piece, [start : stop] of the flat buffer: one system owns it, one checkpoint file holds it."""

    index: int
    piece: Piece
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Unlike any other shard's, and fit for a file."""
        return f"{self.piece.name.replace(' ', '-')}.{(self.start - self.piece.start) // SHARD}"


def shards_of(shape: Shape) -> tuple[Shard, ...]:
    """The shards in the order of the flat buffer: a function of the shape alone, whatever the number of systems."""
    cuts = [
        (piece, start, min(start + SHARD, piece.stop))
        for piece in pieces_of(shape)
        for start in range(piece.start, piece.stop, SHARD)
    ]
    return tuple(Shard(index, *cut) for index, cut in enumerate(cuts))


class Weights(Mapping[str, Tensor]):
    """A flat buffer (numel,) and its views: fp32 for weights. With `piece` given, those of that piece alone.

    The same layout serves their image, gradients and moments. `offsets` says where in the buffer a tensor begins.
    """

    def __init__(self, shape: Shape, flat: Tensor, piece: Piece | None = None) -> None:
        self.shape = shape
        self.flat = flat
        sizes = tensor_sizes(shape) if piece is None else _sizes_by_piece(shape)[piece.name]
        ends = itertools.accumulate(math.prod(size) for size in sizes.values())
        self.offsets = dict(zip(sizes, (0, *ends), strict=False))
        pieces = torch.split(flat, [math.prod(size) for size in sizes.values()])
        self._views = {name: part.view(size) for (name, size), part in zip(sizes.items(), pieces, strict=True)}

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
