"""The GPT on a CPU: matrix products by PyTorch, all between them by kernels.c, gradients written out by hand.

In bf16 on processors that multiply it, attention is one kernel (attention.c) and so are the gradients of matrices
(products.c): PyTorch's products get 127 and 195 of such a core's 215 GFLOP/s there.

Letters: B sequences of T tokens, n = B T rows, width d, H heads of width d_head. The residual stream is fp32; products
run in the compute precision on the image, the weights in that precision. `model.gpt` is the same in plain PyTorch, and
the tests hold both equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from isoflop.model.gradients import Gradients
from isoflop.model.head import chunk_rows
from isoflop.model.kernels import Kernels
from isoflop.model.passes import Passes
from isoflop.model.weights import Weights
from isoflop.recipe import STANDARD, Parametrisation, Shape

# Rows of the head whose gradient is computed at once: faster by a quarter than all 50,257, and a few MB instead of 100.
HEAD_ROWS = 4096
QUERIES = 128  # queries of an attention block, which computes the keys up to its own last query only


@dataclass(frozen=True)
class Kept:
    """What only matrix products could make again of a layer's forward pass, and its backward pass needs."""

    x: Tensor  # (n, d) fp32
    heads: Tensor  # q, k, v: (3, B H, T, d_head)
    shares: Tensor  # flat: the softmax by blocks of queries, as the attention that made it lays it out
    attended: Tensor  # (n, d)
    middle: Tensor  # (n, d) fp32: x after attention
    up: Tensor  # (n, 4 d) before bias and GELU


@dataclass
class Saved:
    """All that a layer's backward pass needs of its forward pass; it lets go of what it is done with."""

    kept: Kept
    norm_1: Tensor  # (n, d)
    stats_1: Tensor  # (2, n) fp32: mean, and one over the standard deviation
    norm_2: Tensor  # (n, d)
    stats_2: Tensor  # (2, n) fp32
    active: Tensor | None  # (n, 4 d); None: the backward pass makes it again, with the gradient through it


class FusedGPT(Passes):
    """The model by the kernels."""

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        kernels: Kernels,
        parametrisation: Parametrisation = STANDARD,
        recompute: bool = False,
    ) -> None:
        self.shape, self.dtype, self._k, self._recompute = shape, dtype, kernels, recompute
        self.embedding_multiplier = parametrisation.embedding_multiplier
        self._output_multiplier = parametrisation.output_multiplier
        self._attention_scale = parametrisation.attention_scale(shape)
        self._half = int(dtype == torch.bfloat16)
        self._multiplies = bool(kernels.multiplies(self._half))

    def image(self, weights: Weights) -> Weights:
        """As `Passes` says; in fp32 the weights are their own image."""
        return weights if self.dtype == torch.float32 else Weights(self.shape, weights.flat.detach().to(self.dtype))

    def embed(self, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """As `Passes` says."""
        n, d = ids.numel(), self.shape.d_model
        x = torch.empty(n, d)
        tokens, positions = weights["transformer.wte.weight"], weights["transformer.wpe.weight"]
        self._k.embed(n, d, ids.shape[1], ids, tokens, positions, self.embedding_multiplier, x)
        return x

    def embed_backward(self, ids: Tensor, dx: Tensor, gradients: Gradients) -> None:
        """As `Passes` says."""
        if self.embedding_multiplier != 1:
            dx = dx * self.embedding_multiplier
        gradients.add_rows("transformer.wte.weight", ids.view(-1), dx)
        positions = torch.arange(ids.shape[1]).expand(ids.shape).reshape(-1)
        gradients.add_rows("transformer.wpe.weight", positions, dx)

    def layer(
        self, w: list[Tensor], image: list[Tensor], x: Tensor, B: int, memory: Tensor | None = None
    ) -> tuple[Tensor, Saved]:
        """As `Passes` says."""
        ln_1_gain, ln_1_bias, _, qkv_bias, _, projection_bias, ln_2_gain, ln_2_bias, _, up_bias, _, down_bias = w
        n, d = x.shape
        T, H = n // B, self.shape.n_heads
        if memory is None:
            kept = self._new(x, B)
        elif self._recompute:
            kept = self._new(memory.view(torch.float32).view_as(x).copy_(x), B)
        else:
            kept = self._kept(memory, B, T)
            kept.x.copy_(x)
        norm_1, stats_1 = self._norm(kept.x, ln_1_gain, ln_1_bias)
        self._k.split_heads(self._half, B, T, H, d // H, norm_1 @ image[2], qkv_bias, kept.heads)
        if self._multiplies:
            scale = self._attention_scale
            self._k.attend(B, T, H, d // H, scale, kept.heads, kept.shares, kept.attended)
        else:
            mixed = self._attention(kept.heads, kept.shares)
            self._k.swap_heads(self._half, B, H, T, d // H, mixed, kept.attended)
        norm_2, stats_2 = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.residual_layer_norm(
            self._half, n, d, kept.x, kept.attended @ image[4], projection_bias,
            kept.middle, ln_2_gain, ln_2_bias, norm_2, stats_2[0], stats_2[1],
        )  # fmt: skip
        torch.mm(norm_2, image[8], out=kept.up)
        active = self._active(kept.up, up_bias)
        out = torch.empty(n, d) if memory is None else x
        self._k.residual(self._half, n, d, kept.middle, active @ image[10], down_bias, out)
        return out, Saved(kept, norm_1, stats_1, norm_2, stats_2, active)

    def kept_bytes(self, B: int, T: int) -> int:
        """As `Passes` says: 24 d a token in bf16, and of the softmax what lies below its diagonal; or x alone."""
        if self._recompute:
            return 4 * B * T * self.shape.d_model
        return sum(_padded(count, dtype) for count, dtype in self._kept_parts(B, T))

    def recall(self, w: list[Tensor], image: list[Tensor], memory: Tensor, B: int, T: int) -> Saved:
        """As `Passes` says: norms are computed again; or the whole forward pass is."""
        if self._recompute:
            return self.layer(w, image, memory.view(torch.float32).view(B * T, -1), B)[1]
        kept = self._kept(memory, B, T)
        norm_1, stats_1 = self._norm(kept.x, w[0], w[1])
        norm_2, stats_2 = self._norm(kept.middle, w[6], w[7])
        return Saved(kept, norm_1, stats_1, norm_2, stats_2, active=None)

    def layer_backward(
        self, i: int, w: list[Tensor], image: list[Tensor], saved: Saved, dx: Tensor, gradients: Gradients
    ) -> None:
        """As `Passes` says."""
        ln_1_gain, ln_2_gain, up_bias = w[0], w[6], w[9]
        name = f"transformer.h.{i}."
        n, d = dx.shape
        kept = saved.kept
        _, BH, T, d_head = kept.heads.shape
        H, B = self.shape.n_heads, BH // self.shape.n_heads
        # The layer's vectors lie side by side in the flat buffer, in the order of LAYER_TENSORS: one gradient for all.
        vectors = torch.zeros(13 * d)
        d_ln_1_gain, d_ln_1_bias, d_qkv_bias, d_projection_bias, d_ln_2_gain, d_ln_2_bias, d_up_bias, d_down_bias = (
            torch.split(vectors, [d, d, 3 * d, d, d, d, 4 * d, d])
        )
        d_out = torch.empty(n, d, dtype=self.dtype)
        self._k.cast_rows(self._half, n, d, dx, d_out, d_down_bias)
        d_up = d_out @ image[10].t()
        again = saved.active is None
        active = torch.empty_like(d_up) if saved.active is None else saved.active
        self._k.gelu_backward(self._half, n, 4 * d, kept.up, up_bias, d_up, d_up_bias, active if again else None)
        saved.active = None
        gradients.add(name + "mlp.c_proj.weight", self._columns(active, d_out))
        del active
        gradients.add(name + "mlp.c_fc.weight", self._columns(saved.norm_2, d_up))
        self._k.layer_norm_backward(
            self._half, n, d, d_up @ image[8].t(), kept.middle, saved.stats_2[0], saved.stats_2[1],
            ln_2_gain, dx, d_ln_2_gain, d_ln_2_bias, d_out, d_projection_bias,
        )  # fmt: skip
        del d_up
        gradients.add(name + "attn.c_proj.weight", self._columns(kept.attended, d_out))
        d_attended, d_qkv = d_out @ image[4].t(), torch.empty(n, 3 * d, dtype=self.dtype)
        if self._multiplies:
            self._k.attend_backward(
                B, T, H, d_head, self._attention_scale, kept.heads, kept.shares, kept.attended, d_attended,
                d_qkv, d_qkv_bias,
            )  # fmt: skip
        else:
            d_mixed = torch.empty(BH, T, d_head, dtype=self.dtype)
            self._k.swap_heads(self._half, B, T, H, d_head, d_attended, d_mixed)
            d_heads = self._attention_backward(kept.heads, kept.shares, d_mixed)
            self._k.join_heads(self._half, B, T, H, d_head, d_heads, d_qkv, d_qkv_bias)
        gradients.add(name + "attn.c_attn.weight", self._columns(saved.norm_1, d_qkv))
        self._k.layer_norm_backward(
            self._half, n, d, d_qkv @ image[2].t(), kept.x, saved.stats_1[0], saved.stats_1[1],
            ln_1_gain, dx, d_ln_1_gain, d_ln_1_bias, None, None,
        )  # fmt: skip
        gradients.add(name + "ln_1.weight", vectors)

    def head(
        self,
        weights: Mapping[str, Tensor],
        image: Mapping[str, Tensor],
        x: Tensor,
        targets: Tensor,
        gradients: Gradients | None,
    ) -> tuple[Tensor, Tensor]:
        """As `Passes` says: nats of each target."""
        n, d = x.shape
        gain, bias = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]
        head = image["transformer.wte.weight"]  # (V, d)
        norm, stats = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.layer_norm(self._half, n, d, x, gain, bias, norm, stats[0], stats[1])
        nats, dx, vectors = torch.empty(n), torch.zeros(n, d), torch.zeros(2 * d)
        d_norm = torch.empty_like(norm)
        V = self.shape.vocab_size
        rows = min(n, chunk_rows(V))
        memory = torch.empty(rows, V, dtype=self.dtype)  # the largest there is: never two of it
        for first in range(0, n, rows):
            part = slice(first, min(n, first + rows))
            logits = torch.mm(norm[part], head.t(), out=memory[: part.stop - part.start])
            wanted = int(gradients is not None)
            scale = self._output_multiplier
            self._k.cross_entropy(self._half, len(logits), V, scale, logits, targets[part], wanted, nats[part])
            if gradients is not None:
                torch.mm(logits, head, out=d_norm[part])
                for row in range(0, V, HEAD_ROWS):
                    gradient = self._columns(logits[:, row : row + HEAD_ROWS], norm[part])
                    gradients.add("transformer.wte.weight", gradient, row * d)
        if gradients is not None:
            self._k.layer_norm_backward(
                self._half, n, d, d_norm, x, stats[0], stats[1], gain, dx, vectors[:d], vectors[d:], None, None
            )
            gradients.add("transformer.ln_f.weight", vectors)
        return nats, dx

    def _columns(self, a: Tensor, b: Tensor) -> Tensor:
        """a^T b of a (n, i) and b (n, j), which may be columns of wider ones."""
        if not self._multiplies:
            return a.t() @ b
        product = torch.empty(a.shape[1], b.shape[1], dtype=self.dtype)
        self._k.multiply_columns(len(a), *product.shape, a, a.stride(0), b, b.stride(0), product)
        return product

    def _norm(self, x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        n, d = x.shape
        norm, stats = torch.empty(n, d, dtype=self.dtype), torch.empty(2, n)
        self._k.layer_norm(self._half, n, d, x, gain, bias, norm, stats[0], stats[1])
        return norm, stats

    def _active(self, up: Tensor, bias: Tensor) -> Tensor:
        active = torch.empty_like(up)
        self._k.gelu(self._half, up.shape[0], up.shape[1], up, bias, active)
        return active

    def _new(self, x: Tensor, B: int) -> Kept:
        """Each tensor on its own: they die one by one in the backward pass."""
        parts = [torch.empty(count, dtype=dtype) for count, dtype in self._kept_parts(B, x.shape[0] // B)[1:]]
        return self._shaped([x, *parts], B, x.shape[0] // B)

    def _kept(self, memory: Tensor, B: int, T: int) -> Kept:
        parts, start = [], 0
        for count, dtype in self._kept_parts(B, T):
            parts.append(memory[start : start + count * dtype.itemsize].view(dtype))
            start += _padded(count, dtype)
        return self._shaped(parts, B, T)

    def _kept_parts(self, B: int, T: int) -> list[tuple[int, torch.dtype]]:
        """Elements and type of all tensors of `Kept`, one after the other."""
        n, d, H = B * T, self.shape.d_model, self.shape.n_heads
        # The kernel's tiles are whole ones.
        shares = B * H * sum((last - first) * last for first, last in _blocks(-(-T // 16) * 16))
        half, fp32 = self.dtype, torch.float32
        return [(n * d, fp32), (3 * n * d, half), (shares, half), (n * d, half), (n * d, fp32), (4 * n * d, half)]

    def _shaped(self, parts: list[Tensor], B: int, T: int) -> Kept:
        x, heads, shares, attended, middle, up = parts
        n, d, BH = B * T, self.shape.d_model, B * self.shape.n_heads
        return Kept(
            x=x.view(n, d),
            heads=heads.view(3, BH, T, self.shape.d_head),
            shares=shares,
            attended=attended.view(n, d),
            middle=middle.view(n, d),
            up=up.view(n, 4 * d),
        )

    def _attention(self, heads: Tensor, shares: Tensor) -> Tensor:
        """softmax(scale x q k^T) v over the positions up to each query's own; `shares` receives the softmax."""
        q, k, v = heads
        BH, T, _ = q.shape
        mixed = torch.empty_like(q)
        for (first, last), share in zip(_blocks(T), _by_block(shares, BH, T), strict=True):
            torch.bmm(q[:, first:last], k[:, :last].transpose(1, 2), out=share)
            self._k.causal_softmax(self._half, BH, last - first, last, first, self._attention_scale, share)
            mixed[:, first:last] = torch.bmm(share, v[:, :last])
        return mixed

    def _attention_backward(self, heads: Tensor, shares: Tensor, d_mixed: Tensor) -> Tensor:
        """The gradient by q, k and v (3, B H, T, d_head) of the gradient by the attention's output."""
        q, k, v = heads
        BH, T, _ = q.shape
        d_heads = torch.empty_like(heads)
        dq, dk, dv = d_heads
        # From the last block on, which sees all keys: it sets what the others add to.
        for (first, last), share in reversed(list(zip(_blocks(T), _by_block(shares, BH, T), strict=True))):
            d_block = d_mixed[:, first:last]
            d_score = torch.bmm(d_block, v[:, :last].transpose(1, 2))
            scale = self._attention_scale
            self._k.causal_softmax_backward(self._half, BH, last - first, last, first, scale, share, d_score)
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


def _blocks(T: int) -> list[tuple[int, int]]:
    """The blocks of queries, [first : last]."""
    return [(first, min(T, first + QUERIES)) for first in range(0, T, QUERIES)]


def _by_block(shares: Tensor, BH: int, T: int) -> list[Tensor]:
    """The softmax of each block, (B H, queries, keys)."""
    sizes = [(BH, last - first, last) for first, last in _blocks(T)]
    parts = torch.split(shares[: sum(map(prod, sizes))], [prod(size) for size in sizes])
    return [part.view(size) for part, size in zip(parts, sizes, strict=True)]


def _padded(count: int, dtype: torch.dtype) -> int:
    """Bytes, up to the next whole vector of 16 fp32."""
    return -(-count * dtype.itemsize // 64) * 64
