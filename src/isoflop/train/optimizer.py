"""AdamW over flat buffers, on gradients in fixed point."""

import math
from collections.abc import Iterator

import torch

from isoflop.model import Kernels, Lanes, Weights
from isoflop.recipe import Shape
from isoflop.train.gradients import UNIT

# Norms are added up and weights updated in chunks of this many elements, wherever and by whomever: equal bits.
CHUNK = 2**18


class AdamW:
    """AdamW, decay decoupled and on matrices only (Loshchilov & Hutter 2019, algorithm 2), exact global-norm clipping.

    State is two flat fp32 moments in the layout of `Weights`. `hidden_lr_multiplier` (muP's) multiplies the rate of the
    layers' matrices, and with it their decay.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        clip_norm: float,
        lanes: Lanes,
        kernels: Kernels | None,
        hidden_lr_multiplier: float = 1.0,
    ) -> None:
        self.first_moment = torch.zeros(shape.params)
        self.second_moment = torch.zeros(shape.params)
        self._beta1, self._beta2, self._eps = beta1, beta2, eps
        self._weight_decay, self._clip_norm = weight_decay, clip_norm
        self._lanes, self._kernels = lanes, kernels
        self._hidden_lr_multiplier = hidden_lr_multiplier

    def norm(self, sums: Weights) -> float:
        """The global norm of the gradient in `sums`, int64 in units of 2^-48."""
        chunks = [sums.flat[part] for part in _chunks(0, sums.flat.numel())]
        return math.sqrt(math.fsum(self._lanes.map(self._squares, chunks)))

    @torch.no_grad()
    def update(self, weights: Weights, image: Weights, sums: Weights, norm: float, lr: float, step: int) -> None:
        """One update of `weights` and their image in place, by the gradient in `sums` clipped to the clipping norm.

        Clears `sums`. `step` counts from 1 and corrects the moments' bias.
        """
        clip = min(1.0, self._clip_norm / norm) if norm > 0 else 1.0
        root = (1 - self._beta2**step) ** -0.5
        update = self._update_fused if self._kernels is not None else self._update_plain

        def one(task: tuple[slice, float, float]) -> None:
            part, rate, decay = task
            update(part, weights, image, sums, clip, 1 - rate * decay, rate / (1 - self._beta1**step), root)

        hidden_lr = lr * self._hidden_lr_multiplier
        embeddings = [(part, lr, self._weight_decay) for part in _chunks(0, weights.n_embedding)]
        hidden = [(part, hidden_lr, self._weight_decay) for part in _chunks(weights.n_embedding, weights.n_matrix)]
        vectors = [(part, lr, 0.0) for part in _chunks(weights.n_matrix, weights.flat.numel())]
        self._lanes.map(one, embeddings + hidden + vectors)

    def _squares(self, chunk: torch.Tensor) -> float:
        if self._kernels is not None:
            return float(self._kernels.squares_of_fixed(chunk.numel(), chunk, UNIT))
        return float((chunk.double() * UNIT).square().sum())

    def _update_fused(
        self,
        part: slice,
        weights: Weights,
        image: Weights,
        sums: Weights,
        clip: float,
        keep: float,
        rate: float,
        root: float,
    ) -> None:
        tensors = (weights.flat[part], self.first_moment[part], self.second_moment[part])
        cast = None if image is weights else image.flat[part]
        numbers = (self._beta1, self._beta2, self._eps, keep, rate, root)
        assert self._kernels is not None
        self._kernels.adamw(part.stop - part.start, sums.flat[part], UNIT, clip, *tensors, cast, *numbers)

    def _update_plain(
        self,
        part: slice,
        weights: Weights,
        image: Weights,
        sums: Weights,
        clip: float,
        keep: float,
        rate: float,
        root: float,
    ) -> None:
        gradient = sums.flat[part].float().mul_(UNIT).mul_(clip)
        first, second = self.first_moment[part], self.second_moment[part]
        first.lerp_(gradient, 1 - self._beta1)
        second.mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)
        width = second.sqrt().mul_(root).add_(self._eps)
        weights.flat[part].mul_(keep).addcdiv_(first, width, value=-rate)
        sums.flat[part].zero_()
        if image is not weights:
            image.flat[part].copy_(weights.flat[part])


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, CHUNK):
        yield slice(first, min(stop, first + CHUNK))
