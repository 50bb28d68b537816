"""AdamW on flat buffers and fixed-point gradients equals PyTorch's on separate tensors."""

import pytest
import torch

from isoflop.model import Kernels, Lanes, Weights, initialise, load_kernels
from isoflop.recipe import Shape
from isoflop.train import optimizer as optimizer_module
from isoflop.train.gradients import FixedSums
from isoflop.train.optimizer import AdamW

SHAPE = Shape(n_layers=1, d_model=16, n_heads=2, vocab_size=300, context_length=8)
SETTINGS = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}


def sums_of(gradient: torch.Tensor, kernels: Kernels | None) -> FixedSums:
    sums = FixedSums(SHAPE, kernels)
    sums.begin(1)
    sums.add("transformer.wte.weight", gradient)  # the first tensor: the whole buffer
    return sums


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])
def test_updates_equal_torch_adamw_with_decay_on_matrices_and_clipping(fused: bool) -> None:
    kernels = load_kernels() if fused else None
    assert fused == (kernels is not None), "the tests need a C compiler"
    ours = initialise(SHAPE, 0)
    image = Weights(SHAPE, ours.flat.bfloat16())
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
    optimizer = AdamW(SHAPE, **SETTINGS, lanes=Lanes(1), kernels=kernels)
    generator = torch.Generator().manual_seed(1)
    for step, scale in enumerate([1.0, 1e-3, 5.0], start=1):
        gradient = Weights(SHAPE, torch.randn(SHAPE.params, generator=generator) * scale)
        for one, piece in zip(theirs, gradient.values(), strict=True):
            one.grad = piece.clone()
        wanted_norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        for group in reference.param_groups:
            group["lr"] = 1e-2
        reference.step()
        sums = sums_of(gradient.flat, kernels)
        norm = optimizer.norm(sums.sums)
        optimizer.update(ours, image, sums.sums, norm, 1e-2, step)
        torch.testing.assert_close(norm, float(wanted_norm), rtol=1e-5, atol=0)
        assert not sums.sums.flat.any()
        for one, view in zip(theirs, ours.values(), strict=True):
            torch.testing.assert_close(view, one.detach(), rtol=1e-4, atol=1e-6)
        assert torch.equal(image.flat, ours.flat.bfloat16())


def test_chunks_and_lanes_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(SHAPE.params, generator=torch.Generator().manual_seed(2))
    seen = []
    for lanes in (1, 3):
        weights = initialise(SHAPE, 0)
        with Lanes(lanes) as some:
            optimizer = AdamW(SHAPE, **SETTINGS, lanes=some, kernels=load_kernels())
            sums = sums_of(gradient, load_kernels())
            monkeypatch.setattr(optimizer_module, "CHUNK", 1 << 10)
            norm = optimizer.norm(sums.sums)
            optimizer.update(weights, weights, sums.sums, norm, 1e-2, 1)
        seen.append((norm, weights.flat))
    assert seen[0][0] == seen[1][0]
    assert torch.equal(seen[0][1], seen[1][1])
