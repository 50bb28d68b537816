"""AdamW over ranges of flat buffers, on gradients in fixed point or fp32."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.model import Kernels, Shard

# Norms are added up and weights updated in chunks of this many elements, wherever and by whomever: equal bits.
CHUNK = 2**18


@dataclass(frozen=True)
class Chunk:
    """The range [start : stop] of the flat buffer, all of it under one learning rate and one decay."""

    start: int
    stop: int
    hidden: bool
    decays: bool


def chunks_of(shard: Shard, elements: int | None = None) -> list[Chunk]:
    """The chunks of a shard in order, of at most so many elements (`CHUNK`): a function of the shape alone."""
    most = CHUNK if elements is None else elements
    found = []
    for first, last, decays in (
        (shard.start, min(shard.stop, shard.piece.vectors), True),
        (max(shard.start, shard.piece.vectors), shard.stop, False),
    ):
        for start in range(first, last, most):
            # muP's multiplier is for the layers' matrices alone.
            found.append(Chunk(start, min(last, start + most), hidden=shard.piece.hidden and decays, decays=decays))
    return found


@dataclass(frozen=True)
class Update:
    """The numbers of one update: how much of the gradient is taken, the rate, and the moments' bias corrections."""

    clip: float
    lr: float
    correction: float
    root: float


@dataclass(frozen=True)
class AdamW:
    """AdamW, decay decoupled and on matrices only (Loshchilov & Hutter 2019, algorithm 2), exact global-norm clipping.

    Holds no state: weights and moments are given to every call. `hidden_lr_multiplier` (muP's) multiplies the rate of
    the layers' matrices, and with it their decay.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    hidden_lr_multiplier: float = 1.0

    def at(self, step: int, norm: float, lr: float) -> Update:
        """The update of that step, counted from 1, by a gradient of that global norm."""
        return Update(
            clip=min(1.0, self.clip_norm / norm) if norm > 0 else 1.0,
            lr=lr,
            correction=1 / (1 - self.beta1**step),
            root=(1 - self.beta2**step) ** -0.5,
        )

    def squares(self, sums: Tensor, unit: float, kernels: Kernels | None) -> float:
        """The sum of squares of a chunk of the gradient, in fp64. `sums` (elements,) times `unit` is the gradient."""
        if kernels is not None:
            return float(kernels.squares(int(sums.dtype == torch.int64), sums.numel(), sums, unit))
        return float((sums.double() * unit).square().sum())

    @torch.no_grad()
    def update(
        self,
        chunk: Chunk,
        update: Update,
        sums: Tensor,
        unit: float,
        weights: Tensor,
        first: Tensor,
        second: Tensor,
        image: Tensor | None,
        kernels: Kernels | None,
    ) -> None:
        """Updates one chunk's weights, moments and image (bf16, where there is one) in place, and clears `sums`.

        All tensors are the chunk's own part, (elements,).
        """
        rate = update.lr * (self.hidden_lr_multiplier if chunk.hidden else 1.0)
        keep = 1 - rate * (self.weight_decay if chunk.decays else 0.0)
        step = rate * update.correction
        if kernels is not None:
            numbers = (self.beta1, self.beta2, self.eps, keep, step, update.root)
            tensors = (weights, first, second, image)
            kernels.adamw(int(sums.dtype == torch.int64), sums.numel(), sums, unit, update.clip, *tensors, *numbers)
            return
        gradient = sums.float().mul_(unit).mul_(update.clip)
        first.lerp_(gradient, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        width = second.sqrt().mul_(update.root).add_(self.eps)
        weights.mul_(keep).addcdiv_(first, width, value=-step)
        sums.zero_()
        if image is not None:
            image.copy_(weights)
