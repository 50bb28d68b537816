"""The kernels equal plain PyTorch: losses, and every gradient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isoflop.model import GPT, FusedGPT, Lanes, Weights, initialise, load_kernels
from isoflop.recipe import STANDARD, Parametrisation, Shape

# Widths, heads and vocabularies that are and are not multiples of a vector of 16; contexts around an attention block.
SHAPES = [
    Shape(n_layers=2, d_model=32, n_heads=2, vocab_size=300, context_length=64),
    Shape(n_layers=1, d_model=40, n_heads=2, vocab_size=257, context_length=130),
    Shape(n_layers=2, d_model=24, n_heads=3, vocab_size=320, context_length=17),
    Shape(n_layers=1, d_model=48, n_heads=1, vocab_size=1000, context_length=256),
]


# Every multiplier away from one.
MUP = Parametrisation(embedding_multiplier=3.0, output_multiplier=0.7, attention_exponent=1.0)


class Kept:
    """Gradients as plain sums."""

    def __init__(self, shape: Shape) -> None:
        self.sum = Weights(shape, torch.zeros(shape.params, dtype=torch.float64))

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        start += self.sum.offsets[name]
        self.sum.flat[start : start + gradient.numel()] += gradient.reshape(-1).double()

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        self.sum[name].index_add_(0, ids, gradient.double())


def fused(shape: Shape, dtype: torch.dtype, parametrisation: Parametrisation = STANDARD) -> FusedGPT:
    kernels = load_kernels()
    assert kernels is not None, "the tests need a C compiler"
    return FusedGPT(shape, dtype, kernels, parametrisation)


def random_weights(shape: Shape) -> Weights:
    """Weights away from their initial values, so that every bias and gain matters."""
    weights = initialise(shape, 1)
    weights.flat.add_(torch.randn(shape.params, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    return weights


def some_samples(shape: Shape, sequences: int = 3) -> Tensor:
    size = (sequences, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("parametrisation", [STANDARD, MUP], ids=["standard", "mup"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"d{shape.d_model}")
def test_loss_and_gradients_equal_autograd(
    shape: Shape, parametrisation: Parametrisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoflop.model.head.CHUNK_ELEMENTS", 1)
    monkeypatch.setattr("isoflop.model.head.FEWEST_ROWS", 100)  # several chunks, the last one short
    monkeypatch.setattr("isoflop.model.fused.HEAD_ROWS", 128)
    weights, samples = random_weights(shape), some_samples(shape)
    ours, wanted = Kept(shape), Kept(shape)
    nats = fused(shape, torch.float32, parametrisation).gradients(weights, weights, samples, ours)
    wanted_nats = GPT(shape, "fp32", parametrisation).gradients(weights, weights, samples, wanted)
    assert nats == pytest.approx(wanted_nats, rel=1e-6)
    for name in weights:
        scale = float(wanted.sum[name].abs().max())
        torch.testing.assert_close(ours.sum[name], wanted.sum[name], rtol=1e-4, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"d{shape.d_model}")
def test_bf16_gradients_point_where_fp32_ones_do(shape: Shape) -> None:
    weights, samples = random_weights(shape), some_samples(shape)
    model = fused(shape, torch.bfloat16)
    ours, exact = Kept(shape), Kept(shape)
    nats = model.gradients(weights, model.image(weights), samples, ours)
    assert nats == pytest.approx(GPT(shape, "fp32").gradients(weights, weights, samples, exact), rel=3e-3)
    for name in weights:
        a, b = ours.sum[name].flatten(), exact.sum[name].flatten()
        if float(b.norm()) > 1e-3 * float(exact.sum.flat.norm()):
            assert float(torch.nn.functional.cosine_similarity(a, b, 0)) > 0.99, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_by_token_are_those_that_the_gradients_are_of(dtype: torch.dtype) -> None:
    shape = SHAPES[1]
    weights, samples, model = random_weights(shape), some_samples(shape), fused(shape, dtype)
    image = model.image(weights)
    each = model.nats(weights, image, samples)
    assert each.shape == (3, shape.context_length)
    assert float(each.double().sum()) == model.gradients(weights, image, samples, Kept(shape))


def test_lanes_side_by_side_give_the_bits_of_one() -> None:
    shape = SHAPES[0]
    weights, samples, model = random_weights(shape), some_samples(shape, 8), fused(shape, torch.bfloat16)
    image = model.image(weights)

    def gradient(part: Tensor) -> Tensor:
        kept = Kept(shape)
        model.gradients(weights, image, part, kept)
        return kept.sum.flat

    with Lanes(3) as lanes:
        together = lanes.map(gradient, samples.split(2))
    for one, part in zip(together, samples.split(2), strict=True):
        assert torch.equal(one, gradient(part))


def test_without_a_compiler_there_are_no_kernels_and_a_broken_one_is_passed_over(tmp_path: Path) -> None:
    code = "from isoflop.model import load_kernels; print(load_kernels() is None)"
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for path in (str(tmp_path / "empty"), str(tmp_path)):
        environment = {**os.environ, "PATH": path, "CC": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
