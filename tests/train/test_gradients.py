"""Gradients add up to the same bits in any order, and nothing leaves the 64 bits unseen."""

import math
import random

import pytest
import torch

from isoflop.model import Weights, load_kernels
from isoflop.recipe import Shape
from isoflop.systems.sums import UNIT, Sums

SHAPE = Shape(n_layers=1, d_model=24, n_heads=2, vocab_size=300, context_length=8)
NAME = "transformer.h.0.mlp.c_fc.weight"
KERNELS = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])


def fixed(fused: bool, step_tokens: int = 4) -> Sums:
    sums = Sums(Weights(SHAPE, torch.zeros(SHAPE.params, dtype=torch.int64)), load_kernels() if fused else None)
    sums.begin(step_tokens)
    return sums


def pieces(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(24, 96, generator=generator).mul(10.0 ** (i - 3)).to(dtype) for i in range(6)]


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_order_gives_the_same_bits_and_the_right_sum(fused: bool, dtype: torch.dtype) -> None:
    seen = []
    for seed in range(3):
        sums, order = fixed(fused), pieces(dtype)
        random.Random(seed).shuffle(order)
        for piece in order:
            sums.add(NAME, piece)
        seen.append(sums.into[NAME].clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    wanted = torch.stack([piece.double() for piece in pieces(dtype)]).sum(0) / 4
    torch.testing.assert_close(seen[0].double() * UNIT, wanted, rtol=1e-6, atol=1e-7)


@KERNELS
def test_rows_add_up_where_their_ids_say(fused: bool) -> None:
    sums = fixed(fused, step_tokens=1)
    ids = torch.tensor([7, 0, 7, 299])
    rows = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    sums.add_rows("transformer.wte.weight", ids, rows)
    wanted = torch.zeros(300, 24).index_add_(0, ids, rows)
    got = sums.into["transformer.wte.weight"].double() * UNIT
    torch.testing.assert_close(got.float(), wanted, rtol=1e-6, atol=1e-7)
    assert sums.within(sums.bounds)


@KERNELS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e9])
def test_what_does_not_fit_is_noticed(fused: bool, bad: float) -> None:
    for rows in (False, True):
        sums = fixed(fused, step_tokens=1)
        piece = torch.zeros(24, 96) if not rows else torch.zeros(3, 24)
        piece[1, 17] = bad
        if rows:
            sums.add_rows("transformer.wte.weight", torch.tensor([1, 2, 3]), piece)
        else:
            sums.add(NAME, piece)
        assert not sums.within(sums.bounds)


@KERNELS
def test_many_pieces_that_fit_one_by_one_are_noticed_before_they_overflow(fused: bool) -> None:
    sums = fixed(fused, step_tokens=1)
    for _ in range(3):
        sums.add(NAME, torch.full((24, 96), 6000.0))
    assert not sums.within(sums.bounds)
