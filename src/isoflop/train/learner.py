"""A model that learns: weights, optimizer state, and what one step does with them."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from isoflop.model import Kernels, Lanes, initialise, make_model
from isoflop.recipe import STANDARD, Parametrisation, Shape
from isoflop.train.gradients import FixedSums
from isoflop.train.optimizer import AdamW


class Learner:
    """One model from its initial weights on. A step is `gradients`, then `norm`, then `update`."""

    def __init__(
        self,
        shape: Shape,
        *,
        seed: int,
        precision: Literal["bf16", "fp32"],
        lanes: Lanes,
        kernels: Kernels | None,
        parametrisation: Parametrisation = STANDARD,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        clip_norm: float = 1.0,
    ) -> None:
        self.weights = initialise(shape, seed, parametrisation)
        self.model = make_model(shape, precision, kernels, parametrisation)
        self._optimizer = AdamW(
            shape,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            lanes=lanes,
            kernels=kernels,
            hidden_lr_multiplier=parametrisation.hidden_lr_multiplier,
        )
        self._sums = FixedSums(shape, kernels)
        self._image = self.model.image(self.weights)
        self._lanes = lanes

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, the live tensors themselves."""
        optimizer = self._optimizer
        return {
            "weights": self.weights.flat,
            "first_moment": optimizer.first_moment,
            "second_moment": optimizer.second_moment,
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `tensors` of an earlier learner held."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self._image = self.model.image(self.weights)

    def gradients(self, microbatches: Iterable[Callable[[], Tensor]], step_tokens: int) -> float:
        """Adds up the gradient of the step's mean loss; returns that loss in nats per token.

        Each of `microbatches` gives its samples, int64 (B, T + 1), when a lane is free for it; all of them have
        `step_tokens` targets together. The sum over tokens is divided by that count, however the step is cut and
        whichever lane is first.
        """
        self._sums.begin(step_tokens)

        def nats(samples: Callable[[], Tensor]) -> float:
            return self.model.gradients(self.weights, self._image, samples(), self._sums)

        return math.fsum(self._lanes.map(nats, microbatches)) / step_tokens

    def norm(self) -> float:
        """The global norm of the gradient; NaN if a part of it is not finite or does not fit."""
        return self._optimizer.norm(self._sums.sums) if self._sums.within_bounds() else math.nan

    @torch.no_grad()
    def update(self, norm: float, lr: float, step: int) -> None:
        """One update of the weights by the gradient, whose norm is `norm`; `step` counts from 1."""
        self._optimizer.update(self.weights, self._image, self._sums.sums, norm, lr, step)
