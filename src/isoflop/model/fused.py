"""The GPT on a CPU: matrix products by PyTorch, all between them by kernels.c, gradients written out by hand.

Letters: B sequences of T tokens, n = B T rows, width d, H heads of width d_head. The residual stream is fp32; products
run in the compute precision on the image, the weights in that precision. `model.gpt` is the same in plain PyTorch, and
the tests hold both equal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.model.gradients import Gradients
from isoflop.model.head import chunk_rows
from isoflop.model.kernels import Kernels
from isoflop.model.weights import Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape

QUERIES = 128  # queries of an attention block, which computes the keys up to its own last query only


@dataclass(frozen=True)
class Saved:
    """What a layer's backward pass needs of its forward pass."""

    x: Tensor  # (n, d) fp32
    norm_1: Tensor  # (n, d)
    stats_1: Tensor  # (2, n) fp32: mean, and one over the standard deviation
    heads: Tensor  # q, k, v: (3, B H, T, d_head)
    shares: list[Tensor]  # softmax of each block of queries: (B H, queries, keys)
    attended: Tensor  # (n, d)
    middle: Tensor  # (n, d) fp32: x after attention
    norm_2: Tensor  # (n, d)
    stats_2: Tensor  # (2, n) fp32
    up: Tensor  # (n, 4 d) before bias and GELU
    active: Tensor  # (n, 4 d)


class FusedGPT:
    """Loss and gradients of one microbatch on the calling thread. Holds no weights and no state: lanes share it."""

    def __init__(
        self, shape: Shape, dtype: torch.dtype, kernels: Kernels, parametrisation: Parametrisation = STANDARD
    ) -> None:
        self.shape, self.dtype, self._k = shape, dtype, kernels
        self._embedding_multiplier = parametrisation.embedding_multiplier
        self._output_multiplier = parametrisation.output_multiplier
        self._attention_scale = parametrisation.attention_scale(shape)
        self._half = int(dtype == torch.bfloat16)

    def image(self, weights: Weights) -> Weights:
        """The weights in the precision of products; in fp32 they are their own image."""
        return weights if self.dtype == torch.float32 else Weights(self.shape, weights.flat.detach().to(self.dtype))

    @torch.no_grad()
    def gradients(self, weights: Weights, image: Weights, samples: Tensor, gradients: Gradients) -> float:
        """Nats summed over the targets of `samples`, int64 (B, T + 1); `gradients` receives that sum's gradient."""
        ids, targets = samples[:, :-1].contiguous(), samples[:, 1:].contiguous().view(-1)
        x = self.embed(weights, ids)
        saved = []
        for i in range(self.shape.n_layers):
            x, kept = self.layer(weights.layer(i), image.layer(i), x, ids.shape[0])
            saved.append(kept)
        nats, dx = self.head(weights, image, x, targets, gradients)
        for i in reversed(range(self.shape.n_layers)):
            self.layer_backward(i, weights.layer(i), image.layer(i), saved.pop(), dx, gradients)
        self.embed_backward(ids, dx, gradients)
        return float(nats.double().sum())

    @torch.no_grad()
    def nats(self, weights: Weights, image: Weights, samples: Tensor) -> Tensor:
        """Nats of each target of `samples`, int64 (B, T + 1): fp32 (B, T)."""
        ids, targets = samples[:, :-1].contiguous(), samples[:, 1:].contiguous()
        x = self.embed(weights, ids)
        for i in range(self.shape.n_layers):
            x, _ = self.layer(weights.layer(i), image.layer(i), x, ids.shape[0])
        return self.head(weights, image, x, targets.view(-1), None)[0].view_as(targets)

    def embed(self, weights: Weights, ids: Tensor) -> Tensor:
        """The residual stream (n, d) at the bottom, of ids (B, T)."""
        n, d = ids.numel(), self.shape.d_model
        x = torch.empty(n, d)
        tokens, positions = weights["transformer.wte.weight"], weights["transformer.wpe.weight"]
        self._k.embed(n, d, ids.shape[1], ids, tokens, positions, self._embedding_multiplier, x)
        return x

    def embed_backward(self, ids: Tensor, dx: Tensor, gradients: Gradients) -> None:
        """Gives on the gradients of both embeddings, of dx (n, d), which it may change."""
        if self._embedding_multiplier != 1:
            dx *= self._embedding_multiplier
        gradients.add_rows("transformer.wte.weight", ids.view(-1), dx)
        positions = torch.arange(ids.shape[1]).expand(ids.shape).reshape(-1)
        gradients.add_rows("transformer.wpe.weight", positions, dx)

    def layer(self, w: list[Tensor], image: list[Tensor], x: Tensor, B: int) -> tuple[Tensor, Saved]:
        """One layer on x (n, d) of B sequences; `w` and `image` are its tensors in the order of LAYER_TENSORS."""
        ln_1_gain, ln_1_bias, _, qkv_bias, _, projection_bias, ln_2_gain, ln_2_bias, _, up_bias, _, down_bias = w
        n, d = x.shape
        T, H = n // B, self.shape.n_heads
        norm_1, stats_1 = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.layer_norm(self._half, n, d, x, ln_1_gain, ln_1_bias, norm_1, stats_1[0], stats_1[1])
        heads = torch.empty(3, B * H, T, d // H, dtype=self.dtype)
        self._k.split_heads(self._half, B, T, H, d // H, norm_1 @ image[2], qkv_bias, heads)
        mixed, shares = self._attention(heads)
        attended = torch.empty(n, d, dtype=self.dtype)
        self._k.swap_heads(self._half, B, H, T, d // H, mixed, attended)
        middle = torch.empty(n, d)
        norm_2, stats_2 = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.residual_layer_norm(
            self._half, n, d, x, attended @ image[4], projection_bias,
            middle, ln_2_gain, ln_2_bias, norm_2, stats_2[0], stats_2[1],
        )  # fmt: skip
        up = norm_2 @ image[8]
        active = torch.empty_like(up)
        self._k.gelu(self._half, n, up.shape[1], up, up_bias, active)
        out = torch.empty(n, d)
        self._k.residual(self._half, n, d, middle, active @ image[10], down_bias, out)
        return out, Saved(x, norm_1, stats_1, heads, shares, attended, middle, norm_2, stats_2, up, active)

    def layer_backward(
        self, i: int, w: list[Tensor], image: list[Tensor], saved: Saved, dx: Tensor, gradients: Gradients
    ) -> None:
        """Turns dx (n, d) fp32, the gradient by the layer's output, into that by its input, in place."""
        ln_1_gain, ln_2_gain, up_bias = w[0], w[6], w[9]
        name = f"transformer.h.{i}."
        n, d = dx.shape
        _, BH, T, d_head = saved.heads.shape
        H, B = self.shape.n_heads, BH // self.shape.n_heads
        # The layer's vectors lie side by side in the flat buffer, in the order of LAYER_TENSORS: one gradient for all.
        vectors = torch.zeros(13 * d)
        d_ln_1_gain, d_ln_1_bias, d_qkv_bias, d_projection_bias, d_ln_2_gain, d_ln_2_bias, d_up_bias, d_down_bias = (
            torch.split(vectors, [d, d, 3 * d, d, d, d, 4 * d, d])
        )
        d_out = torch.empty(n, d, dtype=self.dtype)
        self._k.cast_rows(self._half, n, d, dx, d_out, d_down_bias)
        gradients.add(name + "mlp.c_proj.weight", saved.active.t() @ d_out)
        d_up = d_out @ image[10].t()
        self._k.gelu_backward(self._half, n, 4 * d, saved.up, up_bias, d_up, d_up_bias)
        gradients.add(name + "mlp.c_fc.weight", saved.norm_2.t() @ d_up)
        self._k.layer_norm_backward(
            self._half, n, d, d_up @ image[8].t(), saved.middle, saved.stats_2[0], saved.stats_2[1],
            ln_2_gain, dx, d_ln_2_gain, d_ln_2_bias, d_out, d_projection_bias,
        )  # fmt: skip
        gradients.add(name + "attn.c_proj.weight", saved.attended.t() @ d_out)
        d_mixed = torch.empty(BH, T, d_head, dtype=self.dtype)
        self._k.swap_heads(self._half, B, T, H, d_head, d_out @ image[4].t(), d_mixed)
        d_qkv = torch.empty(n, 3 * d, dtype=self.dtype)
        d_heads = self._attention_backward(saved.heads, saved.shares, d_mixed)
        self._k.join_heads(self._half, B, T, H, d_head, d_heads, d_qkv, d_qkv_bias)
        gradients.add(name + "attn.c_attn.weight", saved.norm_1.t() @ d_qkv)
        self._k.layer_norm_backward(
            self._half, n, d, d_qkv @ image[2].t(), saved.x, saved.stats_1[0], saved.stats_1[1],
            ln_1_gain, dx, d_ln_1_gain, d_ln_1_bias, None, None,
        )  # fmt: skip
        gradients.add(name + "ln_1.weight", vectors)

    def head(
        self, weights: Weights, image: Weights, x: Tensor, targets: Tensor, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Nats of each target (n), and the gradient of their sum by x (n, d): zero without `gradients`."""
        n, d = x.shape
        gain, bias = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]
        head = image["transformer.wte.weight"]  # (V, d)
        norm, stats = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.layer_norm(self._half, n, d, x, gain, bias, norm, stats[0], stats[1])
        nats, dx, vectors = torch.empty(n), torch.zeros(n, d), torch.zeros(2 * d)
        d_norm = torch.empty_like(norm)
        V = self.shape.vocab_size
        rows = chunk_rows(V)
        for first in range(0, n, rows):
            part = slice(first, min(n, first + rows))
            logits = norm[part] @ head.t()
            wanted = int(gradients is not None)
            self._k.cross_entropy(
                self._half, len(logits), V, self._output_multiplier, logits, targets[part], wanted, nats[part]
            )
            if gradients is not None:
                torch.mm(logits, head, out=d_norm[part])
                gradients.add("transformer.wte.weight", logits.t() @ norm[part])
        if gradients is not None:
            self._k.layer_norm_backward(
                self._half, n, d, d_norm, x, stats[0], stats[1], gain, dx, vectors[:d], vectors[d:], None, None
            )
            gradients.add("transformer.ln_f.weight", vectors)
        return nats, dx

    def _attention(self, heads: Tensor) -> tuple[Tensor, list[Tensor]]:
        """softmax(scale q k^T) v over the positions up to each query's own, and the softmax of each block."""
        q, k, v = heads
        BH, T, _ = q.shape
        mixed, shares = torch.empty_like(q), []
        for first in range(0, T, QUERIES):
            last = min(T, first + QUERIES)
            share = torch.bmm(q[:, first:last], k[:, :last].transpose(1, 2))
            self._k.causal_softmax(self._half, BH, last - first, last, first, self._attention_scale, share)
            mixed[:, first:last] = torch.bmm(share, v[:, :last])
            shares.append(share)
        return mixed, shares

    def _attention_backward(self, heads: Tensor, shares: list[Tensor], d_mixed: Tensor) -> Tensor:
        """The gradient by q, k and v (3, B H, T, d_head) of the gradient by the attention's output."""
        q, k, v = heads
        BH, T, _ = q.shape
        d_heads = torch.empty_like(heads)
        dq, dk, dv = d_heads
        # From the last block on, which sees all keys: it sets what the others add to.
        for first in reversed(range(0, T, QUERIES)):
            last = min(T, first + QUERIES)
            share, d_block = shares.pop(), d_mixed[:, first:last]
            d_score = torch.bmm(d_block, v[:, :last].transpose(1, 2))
            self._k.causal_softmax_backward(
                self._half, BH, last - first, last, first, self._attention_scale, share, d_score
            )
            dq[:, first:last] = torch.bmm(d_score, k[:, :last])
            d_keys, d_values = (
                torch.bmm(d_score.transpose(1, 2), q[:, first:last]),
                torch.bmm(share.transpose(1, 2), d_block),
            )
            if last == T:
                dk.copy_(d_keys)
                dv.copy_(d_values)
            else:
                dk[:, :last] += d_keys
                dv[:, :last] += d_values
        return d_heads
