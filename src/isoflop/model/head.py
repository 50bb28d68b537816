"""The output head fused with its loss: logits exist for one chunk of tokens at a time, in either direction."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A chunk of logits has this many elements, or so many rows if that is more: fewer make poor products, and on a GPU each
# chunk's gradient by the embeddings (154 MB at V 50,257 and width 768) is added up in memory.
CHUNK_ELEMENTS = 2**20
FEWEST_ROWS, FEWEST_ON_GPU = 512, 4096


def summed_loss(x: Tensor, embedding: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Cross-entropy in nats of the logits `scale` x embedding^T, summed over tokens, fp32 scalar.

    x: (tokens, d_model) in compute precision; embedding: fp32 (vocabulary, d_model), the tied head; targets: int64
    (tokens,). Both gradients are made chunk by chunk in the forward pass, while a chunk's logits are at hand
    (the idea of Wijmans et al. 2024, "Cut your losses"), so tokens x vocabulary never exists.
    """
    loss: Tensor = _SummedLoss.apply(x, embedding, targets, scale)
    return loss


def chunk_loss(x: Tensor, head: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of a chunk, its gradient by x, and its gradient by the head (fp32)."""
    logits = (x @ head.t()).float() * scale  # (chunk, vocabulary)
    log_sum = logits.logsumexp(-1, keepdim=True)
    loss = (log_sum - logits.gather(1, targets[:, None])).sum()
    vocabulary = torch.arange(head.shape[0], device=x.device)
    gradient = (((logits - log_sum).exp() - (vocabulary == targets[:, None]).float()) * scale).to(x.dtype)
    return loss, gradient @ head, (gradient.t() @ x).float()


def loss_and_gradients(
    x: Tensor,
    embedding: Tensor,
    targets: Tensor,
    scale: float,
    chunk: Callable[..., tuple[Tensor, Tensor, Tensor]] = chunk_loss,
) -> tuple[Tensor, Tensor, Tensor]:
    """`summed_loss` with its gradient by x (tokens, d_model), in x's precision, and by the embedding, in fp32.

    `chunk` is `chunk_loss`, or the same compiled.
    """
    head = embedding.to(x.dtype)
    x_gradient = torch.empty_like(x)
    head_gradient = torch.zeros_like(embedding, dtype=torch.float32)
    loss = torch.zeros((), dtype=torch.float32, device=x.device)
    size = chunk_rows(head.shape[0], x.device.type)
    for start in range(0, x.shape[0], size):
        part = slice(start, start + size)
        part_loss, x_gradient[part], part_gradient = chunk(x[part], head, targets[part], scale)
        loss += part_loss
        head_gradient += part_gradient
    return loss, x_gradient, head_gradient


def token_losses(x: Tensor, embedding: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Cross-entropy in nats of each token, fp32 (tokens,), chunk by chunk and without gradients."""
    head = embedding.to(x.dtype)
    size = chunk_rows(head.shape[0], x.device.type)
    losses = [
        torch.nn.functional.cross_entropy((part @ head.t()).float() * scale, wanted, reduction="none")
        for part, wanted in zip(torch.split(x, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(losses)


def chunk_rows(vocab_size: int, device: str = "cpu") -> int:
    """Rows (tokens) whose logits exist at once."""
    return max(FEWEST_ON_GPU if device == "cuda" else FEWEST_ROWS, CHUNK_ELEMENTS // vocab_size)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, embedding: Tensor, targets: Tensor, logit_scale: float) -> Tensor:
        loss, x_gradient, head_gradient = loss_and_gradients(x, embedding, targets, logit_scale)
        ctx.save_for_backward(x_gradient, head_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_gradient, head_gradient = ctx.saved_tensors
        return x_gradient * scale.to(x_gradient.dtype), head_gradient * scale, None, None
