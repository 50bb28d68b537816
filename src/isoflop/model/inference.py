"""The GPT as it reads and writes: no gradients, texts that share a beginning, keys and values kept while it writes.

Letters: B rows of T tokens, S tokens to attend to (those kept and the T), width d, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.model.gpt import LAYER_NORM_EPS
from isoflop.model.weights import LAYER_TENSORS
from isoflop.recipe import Shape

_EMBEDDING, _POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"


@dataclass
class Kept:
    """Keys and values of every layer, (B, H, S, d / H) each, of the tokens that were read."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Reader:
    """A standard GPT-2 of the tensors in `weights`, under Hugging Face's names without the tied head.

    `dtype` is that of all arithmetic; fp32 is what a released folder computes in.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        shape: Shape,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)

        def get(name: str) -> Tensor:
            return weights[name].detach().to(self.device, dtype)

        self._embedding, self._positions = get(_EMBEDDING), get(_POSITIONS)
        self._layers = [[get(f"transformer.h.{i}.{name}") for name in LAYER_TENSORS] for i in range(shape.n_layers)]
        self._last_norm = get("transformer.ln_f.weight"), get("transformer.ln_f.bias")

    @torch.inference_mode()
    def features(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, kept: Kept | None = None
    ) -> Tensor:
        """What the head sees of `ids`, int64 (B, T): (B, T, d) after the last LayerNorm.

        `positions`, int64 (B, T), are 0, 1, … unless given. `mask`, bool (B, 1, T, S), says which tokens a token
        attends to; without it all before and itself, so a call with tokens kept must give one. `kept` are the S - T
        tokens read before: they are attended to as `mask` says, and the new ones join them.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=self.device)
        x = F.embedding(ids, self._embedding) + F.embedding(positions, self._positions)
        for i, tensors in enumerate(self._layers):
            x = self._layer(x, tensors, mask, kept, i)
        return F.layer_norm(x, (self.shape.d_model,), *self._last_norm, LAYER_NORM_EPS)

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """(N, vocabulary) in fp32 of features (N, d)."""
        return (features @ self._embedding.t()).float()

    def _layer(self, x: Tensor, tensors: list[Tensor], mask: Tensor | None, kept: Kept | None, number: int) -> Tensor:
        """Layer `number` on the residual stream x (B, T, d)."""
        ln_1_gain, ln_1_bias, qkv, qkv_bias, projection, projection_bias, *feed_forward = tensors
        ln_2_gain, ln_2_bias, up, up_bias, down, down_bias = feed_forward
        B, T, d = x.shape
        heads = self.shape.n_heads
        h = F.layer_norm(x, (d,), ln_1_gain, ln_1_bias, LAYER_NORM_EPS)
        q, k, v = _linear(h, qkv, qkv_bias).view(B, T, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        if kept is not None:
            if number < len(kept.layers):
                k, v = (torch.cat(pair, dim=2) for pair in zip(kept.layers[number], (k, v), strict=True))
                kept.layers[number] = (k, v)
            else:
                kept.layers.append((k, v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + _linear(h.transpose(1, 2).reshape(B, T, d), projection, projection_bias)
        h = F.layer_norm(x, (d,), ln_2_gain, ln_2_bias, LAYER_NORM_EPS)
        return x + _linear(F.gelu(_linear(h, up, up_bias)), down, down_bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x.flatten(0, -2), weight).view(*x.shape[:-1], weight.shape[1])
