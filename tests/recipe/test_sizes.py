"""Every size and budget gets models near it, with the field's head widths; what cannot be had says what would do."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family
from isoflop.config.family import ModelSize
from isoflop.errors import FamilyError
from isoflop.published import published_recipes
from isoflop.recipe import Shape, training_flops
from isoflop.recipe.sizes import WIDTHS, depth_of_width, family_sizes, heads_of_width

# Vocabulary and context, from bytes to Llama 3.
TEXTS = ((257, 128), (1024, 256), (4096, 512), (32_000, 1024), (50_257, 1024), (50_257, 2048), (128_000, 4096))
PUBLISHED = published_recipes("Cerebras-GPT")


def shapes(text: tuple[int, int], sizes: dict[str, Any]) -> list[Shape]:
    """The shapes of a family on a text of that vocabulary and context."""
    vocab_size, context_length = text
    tokenizer = {"kind": "gpt2"} if vocab_size == 50_257 else {"kind": "bpe", "vocab_size": vocab_size}
    data = {"source": Path("x"), "tokenizer": tokenizer, "context_length": context_length}
    family = Family.model_validate({"name": "f", "data": data, "sizes": sizes})
    return [shape_of(size, text) for size in family_sizes(family)]


def shape_of(size: ModelSize, text: tuple[int, int]) -> Shape:
    return Shape(size.n_layers, size.d_model, size.n_heads, *text)


def spaced(low: float, high: float, count: int) -> Iterator[float]:
    return (low * (high / low) ** (i / (count - 1)) for i in range(count))


def cost(shape: Shape) -> float:
    return training_flops(shape).model * 20 * shape.params


@pytest.mark.parametrize("text", TEXTS)
def test_every_size_gets_a_model_within_a_tenth_and_the_usual_heads(text: tuple[int, int]) -> None:
    # Below width 40 a step of 8 in it changes the size by more than a tenth either way.
    for target in spaced(max(1e5, 40 * sum(text)), 1e12, 100):
        (shape,) = shapes(text, {"target_params": [round(target)]})
        assert shape.params == pytest.approx(target, rel=0.1)
        assert abs(shape.n_layers - depth_of_width(shape.d_model)) <= 2
        assert shape.n_heads == heads_of_width(shape.d_model)


@pytest.mark.parametrize("text", TEXTS[1:6:2])
def test_ladders_meet_their_sizes_and_no_model_is_shallower_or_narrower_than_a_smaller_one(
    text: tuple[int, int],
) -> None:
    for first in spaced(max(1e5, 40 * sum(text)), 1e10, 12):
        for ratio in (1.3, 1.6, 2, 3):
            targets = [round(first * ratio**i) for i in range(5)]
            ladder = shapes(text, {"target_params": targets})
            for target, shape in zip(targets, ladder, strict=True):
                assert shape.params == pytest.approx(target, rel=0.105)
            for small, large in pairwise(ladder):
                assert small.d_model <= large.d_model
                assert small.n_layers <= large.n_layers


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("count", [2, 5])
def test_every_budget_is_spent(text: tuple[int, int], count: int) -> None:
    least = cost(Shape(3, 40, 5, *text)) * sum(4**i for i in range(count))
    for budget in spaced(least, 1e26, 40):
        ladder = shapes(text, {"budget_flops": budget, "count": count})
        assert sum(map(cost, ladder)) == pytest.approx(budget, rel=0.105)
        for small, large in pairwise(ladder):
            assert small.d_model <= large.d_model
            assert small.n_layers <= large.n_layers
            assert 2.5 < cost(large) / cost(small) < 6.3


@pytest.mark.parametrize(
    ("text", "budgets"),
    [((1024, 256), (1e13, 2e13, 2e15, 1e17)), ((4096, 512), (2e18, 1e20)), ((50_257, 1024), (5e17,))],
)
def test_round_budgets_are_met(text: tuple[int, int], budgets: tuple[float, ...]) -> None:
    for budget in budgets:
        assert sum(map(cost, shapes(text, {"budget_flops": budget}))) == pytest.approx(budget, rel=0.1)


def test_the_published_seven_come_out_of_their_sizes_exact_and_rounded() -> None:
    rounded = [111e6, 256e6, 590e6, 1.3e9, 2.7e9, 6.7e9, 13e9]
    for targets in ([one.params for one in PUBLISHED], [round(one) for one in rounded]):
        ladder = shapes((50_257, 2048), {"target_params": targets})
        found = [(one.n_layers, one.d_model, one.n_heads) for one in ladder]
        assert found == [(one.n_layers, one.d_model, one.n_heads) for one in PUBLISHED]


def test_heads_are_powers_of_two_wide_and_at_least_two() -> None:
    published = {one.d_model for one in PUBLISHED}
    for width in WIDTHS:
        d_head, rest = divmod(width, heads_of_width(width))
        assert rest == 0
        assert d_head in (8, 16, 32, 64, 128) or width in published
        assert heads_of_width(width) >= 2 or width == 8
        if width >= 1536:
            assert d_head == 128 or width in published
    assert [width // heads_of_width(width) for width in (32, 40, 64, 96, 128, 256, 384, 1600, 1664)] == [
        16, 8, 16, 16, 32, 64, 64, 64, 128,
    ]  # fmt: skip


def test_depth_of_every_width_never_falls() -> None:
    assert all(low <= high for low, high in pairwise(map(depth_of_width, WIDTHS)))
    assert depth_of_width(12_288) == 96  # GPT-3 175B


@pytest.mark.parametrize(
    ("text", "sizes", "told"),
    [
        (
            (50_257, 2048),
            {"budget_flops": 1e15},
            r"budget_flops = 1e\+15 is too little for 5 models.* vocabulary of 50,257.*; "
            r"give \S+ or more, count = 3, or use a smaller vocabulary",
        ),
        (
            (1024, 256),
            {"budget_flops": 1e3, "count": 2},
            r"1e\+03 is too little for 2 models.*give \S+ or more, or use",
        ),
        ((1024, 256), {"budget_flops": 1e300}, "budget_flops = 1e.300: the largest model that there is takes"),
        (
            (50_257, 2048),
            {"target_params": [111_000_000, 300_000]},
            "300,000 is less than any model has with a vocabulary of 50,257 and a context of 2,048; ask for 421k or m",
        ),
        ((1024, 256), {"target_params": [10**18]}, "more than any model has.*ask for .* or less"),
    ],
)
def test_what_cannot_be_had_says_what_would_do(text: tuple[int, int], sizes: dict[str, Any], told: str) -> None:
    with pytest.raises(FamilyError, match=told) as caught:
        shapes(text, sizes)
    assert "\n" not in str(caught.value)
    # What it says would do does.
    if given := re.search(r"give (\S+) or more", str(caught.value)):
        assert shapes(text, {**sizes, "budget_flops": float(given[1])})
    if given := re.search(r"count = (\d+)", str(caught.value)):
        assert shapes(text, {**sizes, "count": int(given[1])})
