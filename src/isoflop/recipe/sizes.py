"""Depth, width and heads from a wanted number of parameters or a budget: one rule for the whole family."""

import bisect
import math
from collections.abc import Callable
from typing import NamedTuple

from isoflop.config import Family
from isoflop.config.family import ModelSize, Sizes
from isoflop.errors import FamilyError
from isoflop.recipe.flops import flops_per_token
from isoflop.recipe.shape import Shape

# Narrow models need fine steps to meet a size; wide ones take whole heads.
WIDTHS = (*range(8, 512, 8), *range(512, 4096, 64), *range(4096, 2**17 + 1, 128))


class _Size(NamedTuple):
    d_model: int
    n_layers: int
    n_heads: int


# Cerebras-GPT, 111M to 13B (Dey et al. 2023, table 1).
PUBLISHED = tuple(
    _Size(*one)
    for one in (
        (768, 10, 12),
        (1088, 14, 17),
        (1536, 18, 12),
        (2048, 24, 16),
        (2560, 32, 32),
        (4096, 32, 32),
        (5120, 40, 40),
    )
)


def family_sizes(family: Family) -> list[ModelSize]:
    """The sizes that the family lists, or those its [sizes] table asks for.

    Raises:
        FamilyError: no model of the rule's form comes within 10 % of a wanted size.
    """
    if family.models is not None:
        return list(family.models)
    assert family.sizes is not None
    vocab_size, context_length = family.data.tokenizer.vocab_size, family.data.context_length
    if family.sizes.target_params is not None:
        shapes = [_shape_of_params(target, vocab_size, context_length) for target in sorted(family.sizes.target_params)]
    else:
        shapes = _shapes_of_budget(family.sizes, family.recipe.tokens_per_parameter, vocab_size, context_length)
    names = [short_count(shape.params) for shape in shapes]
    if len(set(names)) < len(names):
        raise FamilyError(f"sizes: two of the models come out as {_doubled(names)}; ask for sizes further apart")
    return [
        ModelSize(name=name, n_layers=shape.n_layers, d_model=shape.d_model, n_heads=shape.n_heads, seeds=1)
        for name, shape in zip(names, shapes, strict=True)
    ]


def depth_of_width(d_model: int) -> int:
    """Layers for a width: one for each 77 of width up to 768, at least three; then on straight lines through
    Cerebras-GPT's 10, 14, 18, 24, 32, 32, 40 layers at widths 768 to 5,120 (Dey et al. 2023, table 1); beyond, one
    more for each 128, which leads to GPT-3's 96 at 12,288 (Brown et al. 2020, table 2.1).

    Depth must not fall anywhere, or the family would not grow by one rule (a pocket ladder of mixed depth foretold its
    largest model 2.8 % too high).
    """
    smallest, largest = PUBLISHED[0], PUBLISHED[-1]
    if d_model <= smallest.d_model:
        return max(3, round(d_model / 76.8))
    if d_model >= largest.d_model:
        return largest.n_layers + round((d_model - largest.d_model) / 128)
    i = bisect.bisect_left(PUBLISHED, d_model, key=lambda one: one.d_model)
    low, high = PUBLISHED[i - 1], PUBLISHED[i]
    return round(low.n_layers + (high.n_layers - low.n_layers) * (d_model - low.d_model) / (high.d_model - low.d_model))


def heads_of_width(d_model: int) -> int:
    """Heads for a width: those of Cerebras-GPT at its own widths, else by d_head.

    d_head is the divisor nearest to 64 below width 1,536, to 128 from there on (as in Cerebras-GPT, but for its 80 at
    2.7B); two heads where the model is narrow.
    """
    for one in PUBLISHED:
        if one.d_model == d_model:
            return one.n_heads
    wanted = max(2.0, d_model / (64 if d_model < 1536 else 128))
    unit = 16 if d_model >= 512 else 1  # attention kernels want a d_head of whole vectors
    fitting = (h for h in range(1, d_model + 1) if d_model % h == 0 and d_model // h % unit == 0)
    return min(fitting, key=lambda h: abs(math.log(h / wanted)))


def short_count(count: float) -> str:
    """A count as a name: 232k, 1.3B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{count:.0f}"


def _shape_of_params(target: float, vocab_size: int, context_length: int) -> Shape:
    shape = _nearest(target, lambda shape: shape.params, vocab_size, context_length)
    if abs(math.log(shape.params / target)) > 0.1:
        raise FamilyError(
            f"sizes.target_params: no model of about {short_count(target)} parameters; with a vocabulary of "
            f"{vocab_size:,} and a context of {context_length:,} the nearest has {short_count(shape.params)}: "
            "ask for that, or list [[models]]"
        )
    return shape


def _shapes_of_budget(sizes: Sizes, tokens_per_parameter: float, vocab_size: int, context_length: int) -> list[Shape]:
    """Models of C, 4 C, 16 C … FLOPs that cost the budget together."""
    assert sizes.budget_flops is not None
    count = sizes.count or 5
    smallest = sizes.budget_flops * 3 / (4**count - 1)

    def cost(shape: Shape) -> float:
        return flops_per_token(shape) * tokens_per_parameter * shape.params

    shapes = [_nearest(smallest * 4**i, cost, vocab_size, context_length) for i in range(count)]
    total = sum(map(cost, shapes))
    if abs(math.log(total / sizes.budget_flops)) > 0.1:
        raise FamilyError(
            f"sizes.budget_flops = {sizes.budget_flops:.3g}: the nearest family of {count} models costs {total:.3g} "
            "FLOPs; ask for that, change sizes.count, or list [[models]]"
        )
    return shapes


def _nearest(wanted: float, measure: Callable[[Shape], float], vocab_size: int, context_length: int) -> Shape:
    """The shape of the rule whose `measure` is nearest; it rises with the width, so bisection finds it."""

    def shape(d_model: int) -> Shape:
        return Shape(depth_of_width(d_model), d_model, heads_of_width(d_model), vocab_size, context_length)

    i = bisect.bisect_left(WIDTHS, wanted, key=lambda d_model: measure(shape(d_model)))
    near = [shape(d_model) for d_model in WIDTHS[max(0, i - 1) : i + 1]]
    return min(near, key=lambda one: abs(math.log(measure(one) / wanted)))


def _doubled(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
