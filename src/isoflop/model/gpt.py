"""The GPT as functions of its weights: embedding, layers, head.

Letters: B sequences of T tokens, width d, H heads. The residual stream is fp32; matrix products run in the compute
precision on weights cast from the fp32 master, as autocast would.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.model.attention import causal_attention
from isoflop.model.head import chunk_loss, summed_loss, token_losses
from isoflop.model.weights import Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape

LAYER_NORM_EPS = 1e-5

Layer = Callable[..., Tensor]


class GPT:
    """A GPT-3 style model: pre-LayerNorm, learned positions, exact GELU, biases, tied head (Brown et al. 2020).

    Knows shape, precision and the multipliers of its parametrisation, holds no weights: every call is given them. With
    `compiled` one compiled layer serves all layers, so compile time does not grow with depth.
    """

    def __init__(
        self,
        shape: Shape,
        precision: Literal["bf16", "fp32"],
        compiled: bool,
        parametrisation: Parametrisation = STANDARD,
    ) -> None:
        self.shape = shape
        self._embedding_multiplier = parametrisation.embedding_multiplier
        self._output_multiplier = parametrisation.output_multiplier
        self._attention_scale = float(shape.d_head**-parametrisation.attention_exponent)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._layer: Layer = layer
        self._chunk_loss = chunk_loss
        if compiled:
            # Every model is a new set of shapes; without a reset dynamo gives up compiling at the ninth.
            torch._dynamo.reset()
            self._layer = torch.compile(layer, dynamic=False)
            self._chunk_loss = torch.compile(chunk_loss, dynamic=False)

    def summed_loss(self, weights: Weights, samples: Tensor) -> Tensor:
        """Nats summed over the B x T targets of `samples`, int64 (B, T + 1): fp32 scalar with gradients."""
        x = self.features(weights, samples[:, :-1])
        targets = samples[:, 1:].reshape(-1)
        wte = weights["transformer.wte.weight"]
        return summed_loss(x.flatten(0, 1), wte, targets, self._output_multiplier, self._chunk_loss)

    def nats(self, weights: Weights, samples: Tensor) -> Tensor:
        """Nats of each target of `samples`, int64 (B, T + 1): fp32 (B, T), without gradients."""
        x = self.features(weights, samples[:, :-1])
        targets = samples[:, 1:].reshape(-1)
        wte = weights["transformer.wte.weight"]
        return token_losses(x.flatten(0, 1), wte, targets, self._output_multiplier).view_as(samples[:, 1:])

    def features(self, weights: Weights, ids: Tensor) -> Tensor:
        """What the head sees: (B, T, d) in compute precision, after the last LayerNorm."""
        x = self._embedded(weights, ids)
        for i in range(self.shape.n_layers):
            x = self._layer_of(i, x, weights)
        return last_norm(x, weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"], self.dtype)

    def residual_stream(self, weights: Weights, ids: Tensor) -> Iterator[Tensor]:
        """The stream, fp32 (B, T, d), after the embeddings and after each layer: for looking at its size."""
        x = self._embedded(weights, ids)
        yield x
        for i in range(self.shape.n_layers):
            x = self._layer_of(i, x, weights)
            yield x

    def logits(self, weights: Weights, ids: Tensor) -> Tensor:
        """(B, T, vocabulary) in fp32: for tests and small inputs only."""
        x = self.features(weights, ids)
        return (x @ weights["transformer.wte.weight"].to(self.dtype).t()).float() * self._output_multiplier

    def _embedded(self, weights: Weights, ids: Tensor) -> Tensor:
        k = self._embedding_multiplier
        positions = weights["transformer.wpe.weight"][: ids.shape[1]]
        # k x (token + position) in one pass over (B, T, d); with k = 1 the bits are those of a plain sum.
        return torch.add(k * positions, F.embedding(ids, weights["transformer.wte.weight"]), alpha=k)

    def _layer_of(self, i: int, x: Tensor, weights: Weights) -> Tensor:
        return self._layer(x, *weights.layer(i), self.shape.n_heads, self._attention_scale, self.dtype)


def layer(
    x: Tensor,
    ln_1_gain: Tensor,
    ln_1_bias: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    projection: Tensor,
    projection_bias: Tensor,
    ln_2_gain: Tensor,
    ln_2_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    n_heads: int,
    attention_scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """One layer on the residual stream x (B, T, d): x + attention(norm(x)), then x + feed-forward(norm(x))."""
    B, T, d = x.shape
    h = F.layer_norm(x, (d,), ln_1_gain, ln_1_bias, LAYER_NORM_EPS)
    q, k, v = _linear(h, qkv, qkv_bias, dtype).view(B, T, 3, n_heads, d // n_heads).permute(2, 0, 3, 1, 4)
    h = causal_attention(q, k, v, attention_scale).transpose(1, 2).reshape(B, T, d)
    x = x + _linear(h, projection, projection_bias, dtype)
    h = F.layer_norm(x, (d,), ln_2_gain, ln_2_bias, LAYER_NORM_EPS)
    return x + _linear(F.gelu(_linear(h, up, up_bias, dtype)), down, down_bias, dtype)


def last_norm(x: Tensor, gain: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """LayerNorm before the head, in compute precision. Not compiled: that costs a second a width and gains nothing."""
    return F.layer_norm(x, (x.shape[-1],), gain, bias, LAYER_NORM_EPS).to(dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.addmm(bias.to(dtype), x.to(dtype).flatten(0, -2), weight.to(dtype))
    return y.view(*x.shape[:-1], weight.shape[1])
