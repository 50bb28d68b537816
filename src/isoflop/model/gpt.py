"""The GPT as functions of its weights: embedding, layers, head.

Letters: B sequences of T tokens, width d, H heads. The residual stream is fp32; matrix products run in the compute
precision on weights cast from the fp32 master, as autocast would.
"""

from collections import deque
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.model.gradients import Gradients
from isoflop.model.head import summed_loss, token_losses
from isoflop.model.weights import Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape

LAYER_NORM_EPS = 1e-5


class GPT:
    """A GPT-3 style model: pre-LayerNorm, learned positions, exact GELU, biases, tied head (Brown et al. 2020).

    Knows shape, precision and the multipliers of its parametrisation, holds no weights: every call is given them.
    Gradients come from autograd. On a CPU with a C compiler `FusedGPT` does the same faster.
    """

    def __init__(
        self, shape: Shape, precision: Literal["bf16", "fp32"], parametrisation: Parametrisation = STANDARD
    ) -> None:
        self.shape = shape
        self._embedding_multiplier = parametrisation.embedding_multiplier
        self._output_multiplier = parametrisation.output_multiplier
        self._attention_scale = parametrisation.attention_scale(shape)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def image(self, weights: Weights) -> Weights:
        """The weights themselves: layers cast them as they go."""
        return weights

    def gradients(self, weights: Weights, image: Weights, samples: Tensor, gradients: Gradients) -> float:
        """Nats summed over the targets of `samples`, int64 (B, T + 1); `gradients` receives that sum's gradient."""
        leaves = Weights(self.shape, weights.flat.detach())
        for tensor in leaves.values():
            tensor.requires_grad_()
        loss = self.summed_loss(leaves, samples)
        for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            gradients.add(name, gradient)
        return float(loss.detach())

    def summed_loss(self, weights: Weights, samples: Tensor) -> Tensor:
        """Nats summed over the B x T targets of `samples`, int64 (B, T + 1): fp32 scalar with gradients."""
        x = self.features(weights, samples[:, :-1])
        targets = samples[:, 1:].reshape(-1)
        return summed_loss(x.flatten(0, 1), weights["transformer.wte.weight"], targets, self._output_multiplier)

    @torch.no_grad()
    def nats(self, weights: Weights, image: Weights, samples: Tensor) -> Tensor:
        """Nats of each target of `samples`, int64 (B, T + 1): fp32 (B, T)."""
        x = self.features(weights, samples[:, :-1])
        targets = samples[:, 1:].reshape(-1)
        wte = weights["transformer.wte.weight"]
        return token_losses(x.flatten(0, 1), wte, targets, self._output_multiplier).view_as(samples[:, 1:])

    def features(self, weights: Weights, ids: Tensor) -> Tensor:
        """What the head sees: (B, T, d) in compute precision, after the last LayerNorm."""
        x = deque(self.residual_stream(weights, ids), maxlen=1).pop()
        gain, bias = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]
        return F.layer_norm(x, (self.shape.d_model,), gain, bias, LAYER_NORM_EPS).to(self.dtype)

    def residual_stream(self, weights: Weights, ids: Tensor) -> Iterator[Tensor]:
        """The stream, fp32 (B, T, d), after the embeddings and after each layer."""
        positions = weights["transformer.wpe.weight"][: ids.shape[1]]
        x = (F.embedding(ids, weights["transformer.wte.weight"]) + positions) * self._embedding_multiplier
        yield x
        for i in range(self.shape.n_layers):
            x = layer(x, weights.layer(i), self.shape.n_heads, self._attention_scale, self.dtype)
            yield x

    def logits(self, weights: Weights, ids: Tensor) -> Tensor:
        """(B, T, vocabulary) in fp32: for tests and small inputs only."""
        x = self.features(weights, ids)
        return (x @ weights["transformer.wte.weight"].to(self.dtype).t()).float() * self._output_multiplier


def layer(x: Tensor, tensors: list[Tensor], n_heads: int, attention_scale: float, dtype: torch.dtype) -> Tensor:
    """One layer on the residual stream x (B, T, d): x + attention(norm(x)), then x + feed-forward(norm(x)).

    `tensors` are its weights in the order of LAYER_TENSORS; queries times keys are multiplied by `attention_scale`.
    """
    ln_1_gain, ln_1_bias, qkv, qkv_bias, projection, projection_bias, *feed_forward = tensors
    ln_2_gain, ln_2_bias, up, up_bias, down, down_bias = feed_forward
    B, T, d = x.shape
    h = F.layer_norm(x, (d,), ln_1_gain, ln_1_bias, LAYER_NORM_EPS)
    q, k, v = _linear(h, qkv, qkv_bias, dtype).view(B, T, 3, n_heads, d // n_heads).permute(2, 0, 3, 1, 4)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention_scale)
    h = h.transpose(1, 2).reshape(B, T, d)
    x = x + _linear(h, projection, projection_bias, dtype)
    h = F.layer_norm(x, (d,), ln_2_gain, ln_2_bias, LAYER_NORM_EPS)
    return x + _linear(F.gelu(_linear(h, up, up_bias, dtype)), down, down_bias, dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.addmm(bias.to(dtype), x.to(dtype).flatten(0, -2), weight.to(dtype))
    return y.view(*x.shape[:-1], weight.shape[1])
