"""AdamW on flat buffers equals PyTorch's on separate tensors."""

import torch

from isoflop.model import Weights, initialise
from isoflop.recipe import Shape
from isoflop.train.optimizer import AdamW

SHAPE = Shape(n_layers=1, d_model=16, n_heads=2, vocab_size=300, context_length=8)


def test_updates_equal_torch_adamw_with_decay_on_matrices_and_clipping() -> None:
    ours = initialise(SHAPE, 0)
    theirs = [view.clone().requires_grad_() for view in ours.values()]
    reference = torch.optim.AdamW(
        [
            {"params": [one for one in theirs if one.ndim == 2], "weight_decay": 0.1},
            {"params": [one for one in theirs if one.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    optimizer = AdamW(SHAPE, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    generator = torch.Generator().manual_seed(1)
    for step, scale in enumerate([1.0, 1e-3, 5.0], start=1):
        gradient = Weights(SHAPE, torch.randn(SHAPE.params, generator=generator) * scale)
        for one, piece in zip(theirs, gradient.values(), strict=True):
            one.grad = piece.clone()
        wanted_norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        for group in reference.param_groups:
            group["lr"] = 1e-2
        reference.step()
        norm = optimizer.clip(gradient.flat)
        optimizer.update(ours, gradient.flat, 1e-2, step)
        torch.testing.assert_close(norm, float(wanted_norm), rtol=1e-5, atol=0)
        for one, view in zip(theirs, ours.values(), strict=True):
            torch.testing.assert_close(view, one.detach(), rtol=1e-4, atol=1e-6)
