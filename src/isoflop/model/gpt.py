"""The GPT as functions of its weights: embedding, layers, head.

Letters: B sequences of T tokens, width d, H heads. The residual stream is fp32; matrix products run in the compute
precision on weights cast from the fp32 master, as autocast would.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.model.gradients import Gradients
from isoflop.model.head import chunk_loss, loss_and_gradients, summed_loss, token_losses
from isoflop.model.passes import Passes
from isoflop.model.weights import LAYER_TENSORS, Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Graph:
    """A layer's input and tensors, and its output with what autograd remembers."""

    leaves: list[Tensor]
    out: Tensor


class GPT(Passes):
    """A GPT-3 style model: pre-LayerNorm, learned positions, exact GELU, biases, tied head (Brown et al. 2020).

    Knows shape, precision and the multipliers of its parametrisation, holds no weights: every call is given them.
    Gradients come from autograd. On a CPU with a C compiler `FusedGPT` does the same faster.
    """

    def __init__(
        self, shape: Shape, precision: Literal["bf16", "fp32"], parametrisation: Parametrisation = STANDARD
    ) -> None:
        self.shape = shape
        self.embedding_multiplier = parametrisation.embedding_multiplier
        self._output_multiplier = parametrisation.output_multiplier
        self._attention_scale = parametrisation.attention_scale(shape)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._block: Callable[..., Tensor] = layer
        self._chunk: Callable[..., tuple[Tensor, Tensor, Tensor]] = chunk_loss

    def compile(self) -> None:
        """From now on one compiled block computes all layers: what it is told of them are tensors of one size.

        Another computes the head's chunks, so that fp32 logits are never written. All that was compiled before in this
        process is forgotten: PyTorch runs a function uncompiled from the ninth size on, and families have more.
        """
        torch.compiler.reset()
        self._block = torch.compile(layer, dynamic=False)
        self._chunk = torch.compile(chunk_loss, dynamic=False)

    def image(self, weights: Weights) -> Weights:
        """As `Passes` says; in fp32 the weights are their own image."""
        return weights if self.dtype == torch.float32 else Weights(self.shape, weights.flat.detach().to(self.dtype))

    def embed(self, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """As `Passes` says."""
        positions = weights["transformer.wpe.weight"][: ids.shape[1]]
        x = (F.embedding(ids, weights["transformer.wte.weight"]) + positions) * self.embedding_multiplier
        return x.flatten(0, 1)

    def embed_backward(self, ids: Tensor, dx: Tensor, gradients: Gradients) -> None:
        """As `Passes` says."""
        dx = dx * self.embedding_multiplier
        gradients.add_rows("transformer.wte.weight", ids.reshape(-1), dx)
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape).reshape(-1)
        gradients.add_rows("transformer.wpe.weight", positions, dx)

    def layer(
        self, w: list[Tensor], image: list[Tensor], x: Tensor, B: int, memory: Tensor | None = None
    ) -> tuple[Tensor, Graph | None]:
        """As `Passes` says: in `memory`, x alone."""
        if memory is not None:
            out, x = x, memory.view(torch.float32).view_as(x).copy_(x)
            with torch.no_grad():
                return out.copy_(self.layer(w, image, x, B)[0]), None
        leaves = [x, *(cast if cast.ndim == 2 else own for own, cast in zip(w, image, strict=True))]
        # Not detach(): what is written elsewhere in the buffer that the tensors are views of is none of autograd's.
        leaves = [leaf.data.requires_grad_() for leaf in leaves]
        inner = leaves[0].view(B, -1, self.shape.d_model)
        out = self._block(inner, leaves[1:], self.shape.n_heads, self._attention_scale, self.dtype).flatten(0, 1)
        return out.detach(), Graph(leaves, out)

    def kept_bytes(self, B: int, T: int) -> int:
        """As `Passes` says."""
        return 4 * B * T * self.shape.d_model

    def recall(self, w: list[Tensor], image: list[Tensor], memory: Tensor, B: int, T: int) -> Graph:
        """As `Passes` says: the whole forward pass again."""
        with torch.enable_grad():
            graph = self.layer(w, image, memory.view(torch.float32).view(B * T, -1), B)[1]
        assert graph is not None
        return graph

    def layer_backward(
        self, i: int, w: list[Tensor], image: list[Tensor], saved: Graph, dx: Tensor, gradients: Gradients
    ) -> None:
        """As `Passes` says."""
        by_x, *others = torch.autograd.grad(saved.out, saved.leaves, dx)
        for name, gradient in zip(LAYER_TENSORS, others, strict=True):
            gradients.add(f"transformer.h.{i}.{name}", gradient)
        dx.copy_(by_x)

    def head(
        self,
        weights: Mapping[str, Tensor],
        image: Mapping[str, Tensor],
        x: Tensor,
        targets: Tensor,
        gradients: Gradients | None,
    ) -> tuple[Tensor, Tensor]:
        """As `Passes` says: with gradients, the sum of the nats."""
        names = ("transformer.ln_f.weight", "transformer.ln_f.bias")
        leaves = [leaf.data.requires_grad_() for leaf in (x, *(weights[name] for name in names))]
        with torch.enable_grad():
            norm = F.layer_norm(leaves[0], (self.shape.d_model,), leaves[1], leaves[2], LAYER_NORM_EPS).to(self.dtype)
        tokens = image["transformer.wte.weight"]
        if gradients is None:
            return token_losses(norm.detach(), tokens, targets, self._output_multiplier), torch.zeros_like(x)
        nats, d_norm, d_tokens = loss_and_gradients(
            norm.detach(), tokens, targets, self._output_multiplier, self._chunk
        )
        gradients.add("transformer.wte.weight", d_tokens)
        dx, *others = torch.autograd.grad(norm, leaves, d_norm)
        for name, gradient in zip(names, others, strict=True):
            gradients.add(name, gradient)
        return nats, dx

    def summed_loss(self, weights: Weights, samples: Tensor) -> Tensor:
        """Nats summed over the B x T targets of `samples`, int64 (B, T + 1): fp32 scalar with gradients."""
        x = self.features(weights, samples[:, :-1])
        targets = samples[:, 1:].reshape(-1)
        return summed_loss(x.flatten(0, 1), weights["transformer.wte.weight"], targets, self._output_multiplier)

    def features(self, weights: Weights, ids: Tensor) -> Tensor:
        """What the head sees: (B, T, d) in compute precision, after the last LayerNorm."""
        *_, x = self.residual_stream(weights, ids)
        gain, bias = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]
        return F.layer_norm(x, (self.shape.d_model,), gain, bias, LAYER_NORM_EPS).to(self.dtype)

    def logits(self, weights: Weights, ids: Tensor) -> Tensor:
        """(B, T, vocabulary) in fp32: for tests and small inputs only."""
        x = self.features(weights, ids)
        return (x @ weights["transformer.wte.weight"].to(self.dtype).t()).float() * self._output_multiplier

    def residual_stream(self, weights: Weights, ids: Tensor) -> Iterator[Tensor]:
        """The stream, fp32 (B, T, d), after the embeddings and after each layer."""
        positions = weights["transformer.wpe.weight"][: ids.shape[1]]
        x = (F.embedding(ids, weights["transformer.wte.weight"]) + positions) * self.embedding_multiplier
        yield x
        for i in range(self.shape.n_layers):
            x = layer(x, weights.layer(i), self.shape.n_heads, self._attention_scale, self.dtype)
            yield x


def layer(x: Tensor, tensors: list[Tensor], n_heads: int, attention_scale: float, dtype: torch.dtype) -> Tensor:
    """One layer on the residual stream x (B, T, d): x + attention(norm(x)), then x + feed-forward(norm(x)).

    `tensors` are its weights in the order of LAYER_TENSORS.
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
