"""AdamW over flat buffers."""

import torch
from torch import Tensor

from isoflop.model import Weights
from isoflop.recipe import Shape


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
        hidden_lr_multiplier: float = 1.0,
    ) -> None:
        self.first_moment = torch.zeros(shape.params)
        self.second_moment = torch.zeros(shape.params)
        self._scratch = torch.empty(shape.params)
        self._beta1, self._beta2, self._eps = beta1, beta2, eps
        self._weight_decay, self._clip_norm = weight_decay, clip_norm
        self._hidden_lr_multiplier = hidden_lr_multiplier

    def clip(self, gradient: Tensor) -> float:
        """Scales the flat gradient in place to at most the clipping norm; returns its norm before."""
        norm = float(gradient.norm())
        if norm > self._clip_norm:
            gradient.mul_(self._clip_norm / norm)
        return norm

    @torch.no_grad()
    def update(self, weights: Weights, gradient: Tensor, lr: float, step: int) -> None:
        """One update of `weights` in place; `step` counts from 1 and corrects the moments' bias."""
        self.first_moment.lerp_(gradient, 1 - self._beta1)
        self.second_moment.mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)
        torch.sqrt(self.second_moment, out=self._scratch)
        self._scratch.mul_((1 - self._beta2**step) ** -0.5).add_(self._eps)
        embeddings, hidden = slice(weights.n_embedding), slice(weights.n_embedding, weights.n_matrix)
        if self._hidden_lr_multiplier != 1:
            self._scratch[hidden].div_(self._hidden_lr_multiplier)
        weights.flat[embeddings].mul_(1 - lr * self._weight_decay)
        weights.flat[hidden].mul_(1 - lr * self._hidden_lr_multiplier * self._weight_decay)
        weights.flat.addcdiv_(self.first_moment, self._scratch, value=-lr / (1 - self._beta1**step))
