"""AdamW on flat buffers and summed gradients equals PyTorch's on separate tensors."""

import math

import pytest
import torch

from isoflop.model import Kernels, Weights, initialise, load_kernels, shards_of
from isoflop.model import weights as weights_module
from isoflop.recipe import Shape
from isoflop.systems.sums import Sums
from isoflop.train import optimizer as optimizer_module
from isoflop.train.optimizer import AdamW

SHAPE = Shape(n_layers=1, d_model=16, n_heads=2, vocab_size=300, context_length=8)


def sums_of(gradient: torch.Tensor, kernels: Kernels | None, dtype: torch.dtype = torch.int64) -> Sums:
    sums = Sums(Weights(SHAPE, torch.zeros(SHAPE.params, dtype=dtype)), kernels)
    sums.begin(1)
    sums.add("transformer.wte.weight", gradient)  # the first tensor: the whole buffer
    return sums


class Trainee:
    """Weights, their image and moments, with the updates of all their chunks."""

    def __init__(self, kernels: Kernels | None) -> None:
        self.weights = initialise(SHAPE, 0)
        self.image = self.weights.flat.bfloat16()
        self.optimizer = AdamW()
        self._moments = [torch.zeros(SHAPE.params) for _ in range(2)]
        self._kernels = kernels
        self._chunks = [chunk for shard in shards_of(SHAPE) for chunk in optimizer_module.chunks_of(shard)]

    def step(self, sums: Sums, lr: float, step: int) -> float:
        flat, unit = sums.into.flat, sums.unit
        parts = [slice(chunk.start, chunk.stop) for chunk in self._chunks]
        norm = math.sqrt(math.fsum(self.optimizer.squares(flat[part], unit, self._kernels) for part in parts))
        update = self.optimizer.at(step, norm, lr)
        for chunk, part in zip(self._chunks, parts, strict=True):
            state = (self.weights.flat[part], *(moment[part] for moment in self._moments), self.image[part])
            self.optimizer.update(chunk, update, flat[part], unit, *state, self._kernels)
        return norm


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=["fixed point", "fp32"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])
def test_updates_equal_torch_adamw_with_decay_on_matrices_and_clipping(fused: bool, dtype: torch.dtype) -> None:
    kernels = load_kernels() if fused else None
    assert fused == (kernels is not None), "the tests need a C compiler"
    ours = Trainee(kernels)
    theirs = [view.clone().requires_grad_() for view in ours.weights.values()]
    reference = torch.optim.AdamW(
        [
            {"params": [one for one in theirs if one.ndim == 2], "weight_decay": 0.1},
            {"params": [one for one in theirs if one.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    generator = torch.Generator().manual_seed(1)
    for step, scale in enumerate([1.0, 1e-3, 5.0], start=1):
        gradient = Weights(SHAPE, torch.randn(SHAPE.params, generator=generator) * scale)
        for one, piece in zip(theirs, gradient.values(), strict=True):
            one.grad = piece.clone()
        wanted_norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        for group in reference.param_groups:
            group["lr"] = 1e-2
        reference.step()
        sums = sums_of(gradient.flat, kernels, dtype)
        norm = ours.step(sums, 1e-2, step)
        torch.testing.assert_close(norm, float(wanted_norm), rtol=1e-5, atol=0)
        assert not sums.into.flat.any()
        for one, view in zip(theirs, ours.weights.values(), strict=True):
            torch.testing.assert_close(view, one.detach(), rtol=1e-4, atol=1e-6)
        assert torch.equal(ours.image, ours.weights.flat.bfloat16())


def test_the_size_of_chunks_and_shards_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(SHAPE.params, generator=torch.Generator().manual_seed(2)) * 1e-4  # nothing to clip
    seen = []
    for chunk, shard in ((2**18, 2**24), (1 << 10, 1 << 12)):
        monkeypatch.setattr(optimizer_module, "CHUNK", chunk)
        monkeypatch.setattr(weights_module, "SHARD", shard)
        trainee = Trainee(load_kernels())
        trainee.step(sums_of(gradient, load_kernels()), 1e-2, 1)
        seen.append(trainee.weights.flat)
    assert torch.equal(seen[0], seen[1])


def test_shards_cover_the_buffer_once_and_have_names_of_their_own() -> None:
    shape = Shape(n_layers=3, d_model=768, n_heads=12, vocab_size=50257, context_length=2048)
    shards = shards_of(shape)
    assert [shard.start for shard in shards[1:]] == [shard.stop for shard in shards[:-1]]
    assert (shards[0].start, shards[-1].stop) == (0, shape.params)
    assert len({shard.name for shard in shards}) == len(shards)
    chunks = [chunk for shard in shards for chunk in optimizer_module.chunks_of(shard)]
    assert sum(chunk.stop - chunk.start for chunk in chunks) == shape.params
    decaying = sum(chunk.stop - chunk.start for chunk in chunks if chunk.decays)
    assert decaying == sum(view.numel() for view in Weights.zeros(shape).values() if view.ndim == 2)
    hidden = sum(chunk.stop - chunk.start for chunk in chunks if chunk.hidden)
    assert hidden == decaying - (50257 + 2048) * 768
