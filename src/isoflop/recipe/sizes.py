"""Depth, width and heads from a wanted number of parameters or a budget: one rule for the whole family."""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from isoflop.config import Family
from isoflop.config.family import ModelSize, Recipe, Sizes
from isoflop.errors import FamilyError
from isoflop.recipe.flops import training_flops
from isoflop.recipe.shape import Shape

# Narrow models need fine steps to meet a size; every width is a multiple of its heads' (see `heads_of_width`).
WIDTHS = (
    *range(8, 128, 8),
    *range(128, 256, 16),
    *range(256, 512, 32),
    *range(512, 1536, 64),
    *range(1536, 2**17 + 1, 128),
)
# How many layers more or less than the rule's a model may have to come nearer to its size, and the fewest at all.
DEPTH_SLACK, FEWEST_LAYERS = 2, 2
# What a family file may ask for.
MOST_LAYERS = 1_000
# How near a model or a budget should be, as a logarithm: with this they are met within 10 %.
NEAR = 0.09
# What weighs more in a family than any sum of departures: an error beyond NEAR, and more than that a model smaller in
# width or depth than the one before (a pocket ladder of mixed depth foretold its largest model 2.8 % too high).
NOT_NEAR, SHRINKS = 100.0, 1e6
# By how much the smallest model of a budget may cost more than its share, which is the least of all.
SMALLEST_SHARE = 1.5


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
        FamilyError: a wanted size lies outside of what the rules make, or two come out alike.
    """
    if family.models is not None:
        return list(family.models)
    assert family.sizes is not None
    vocab_size, context_length = family.data.tokenizer.vocab_size, family.data.context_length
    if family.sizes.target_params is not None:
        shapes = _shapes_of_params(family.sizes.target_params, vocab_size, context_length)
    else:
        shapes = _shapes_of_budget(family.sizes, family.recipe, vocab_size, context_length)
    names = [short_count(shape.params) for shape in shapes]
    if len(set(names)) < len(names):
        raise FamilyError(f"sizes: two of the models come out as {_doubled(names)}; ask for sizes further apart")
    deepest = max(shape.n_layers for shape in shapes)
    if deepest > MOST_LAYERS:
        raise FamilyError(f"sizes: a model of {deepest:,} layers comes out, more than {MOST_LAYERS:,}; ask for less")
    return [
        ModelSize(name=name, n_layers=shape.n_layers, d_model=shape.d_model, n_heads=shape.n_heads, seeds=1)
        for name, shape in zip(names, shapes, strict=True)
    ]


def depth_of_width(d_model: int) -> int:
    """Layers for a width: one for each 77 of width up to 768, at least three; then on straight lines through
    Cerebras-GPT's 10, 14, 18, 24, 32, 32, 40 layers at widths 768 to 5,120 (Dey et al. 2023, table 1); beyond, one
    more for each 128, which leads to GPT-3's 96 at 12,288 (Brown et al. 2020, table 2.1).

    Depth must not fall anywhere, or the family would not grow by one rule.
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
    """Heads for a width: those of Cerebras-GPT at its own widths, else by d_head, a power of two.

    d_head is 128 from width 1,536 on and 64 from 256 on, as in Cerebras-GPT but for its 80 at 2.7B (Dey et al. 2023,
    table 1; GPT-3 has 64 at 125M and 128 from 6.7B on, Brown et al. 2020, table 2.1; four heads of 64 at width 256 are
    BERT-Mini's, Turc et al. 2019, table 1). Pocket models get 32 from width 128 on and 16 below, with which a ladder
    of widths 32 to 96 was measured, so that they too have several heads. Where that does not divide the width, it is
    halved until it does: 8 at the least, as all `WIDTHS` are multiples of 8. No model wider than 8 has one head alone.
    """
    for one in PUBLISHED:
        if one.d_model == d_model:
            return one.n_heads
    d_head = 128 if d_model >= 1536 else 64 if d_model >= 256 else 32 if d_model >= 128 else 16
    while d_model % d_head or d_head == d_model > 8:
        d_head //= 2
    return d_model // d_head


def short_count(count: float) -> str:
    """A count as a name: 232k, 1.3B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{count:.0f}"


def _shapes_of_params(targets: Sequence[int], vocab_size: int, context_length: int) -> list[Shape]:
    """Models near the wanted counts: within 10 %, or of the nearest width where a step of 8 changes more than that."""
    least, most = _shape(WIDTHS[0], 0, vocab_size, context_length), _shape(WIDTHS[-1], 0, vocab_size, context_length)
    for target in targets:
        if not least.params / 1.1 <= target <= most.params * 1.1:
            few = target < least.params
            remedy = f"or more, a smaller vocabulary than {vocab_size:,}" if few else "or less"
            raise FamilyError(
                f"sizes.target_params: {target:,} is {'less' if few else 'more'} than any model has with a vocabulary "
                f"of {vocab_size:,} and a context of {context_length:,}; ask for "
                f"{short_count((least if few else most).params)} {remedy}, or list [[models]]"
            )

    def error(shape: Shape, target: float) -> float:
        return math.log(shape.params / target)

    families = _growing(sorted(targets), error, 1.0, vocab_size, context_length)
    return min(families, key=lambda family: family.departures).shapes


def _shapes_of_budget(sizes: Sizes, recipe: Recipe, vocab_size: int, context_length: int) -> list[Shape]:
    """Models of about C, 4 C, 16 C … FLOPs that cost the budget together, within 10 %."""
    assert sizes.budget_flops is not None
    budget, count = sizes.budget_flops, sizes.count or 5

    def cost(shape: Shape) -> float:
        return training_flops(shape).model * (recipe.tokens or recipe.tokens_per_parameter * shape.params)

    def error(shape: Shape, flops: float) -> float:
        return math.log(cost(shape) / flops) / 2  # FLOPs go with the square of the size

    smallest, largest = (cost(_shape(width, 0, vocab_size, context_length)) for width in (WIDTHS[0], WIDTHS[-1]))
    if budget * SMALLEST_SHARE < smallest * _fours(count):
        fewer = [f"count = {one}" for one in range(2, count) if budget >= smallest * _fours(one)]
        remedies = [f"give {_rounded_up(smallest * _fours(count))} or more", *fewer[-1:], "or use a smaller vocabulary"]
        raise FamilyError(
            f"sizes.budget_flops = {budget:.3g} is too little for {count} models, each of four times the FLOPs of the "
            f"one before, with a vocabulary of {vocab_size:,}: the smallest takes {smallest:.2g}; {', '.join(remedies)}"
        )
    if budget > largest * _fours(count) / 4 ** (count - 1):
        raise FamilyError(
            f"sizes.budget_flops = {budget:.3g}: the largest model that there is takes {largest:.2g}; give less"
        )
    first = budget / _fours(count)
    # A small model may stray farther: it hardly moves the total.
    families = _growing([first * 4**i for i in range(count)], error, 2.0, vocab_size, context_length)

    def departures(family: _Growing) -> float:
        return family.departures + _beyond_near(math.log(sum(map(cost, family.shapes)) / budget))

    return min(families, key=departures).shapes


class _Growing(NamedTuple):
    """Models from the smallest on, and by how much they depart from what was wanted and from the rule of depth."""

    departures: float
    shapes: list[Shape]


def _growing(
    wanted: Sequence[float],
    error: Callable[[Shape, float], float],
    growing_weight: float,
    vocab_size: int,
    context_length: int,
) -> list[_Growing]:
    """The best families that end in each shape near the last of the rising `wanted`.

    `error` tells by how much a shape is too large, as a logarithm; it rises with width and depth. An error beyond
    `NEAR` of a model weighs `growing_weight` times as much as that of the next smaller one.
    """
    best = [_Growing(0.0, [])]
    for i, one in enumerate(wanted):
        weight = growing_weight ** (i + 1 - len(wanted))
        longer = []
        for shape in _candidates(one, error, vocab_size, context_length):
            off = error(shape, one)
            own = abs(off) + weight * _beyond_near(off) + abs(math.log(shape.n_layers / depth_of_width(shape.d_model)))
            so_far = [_Growing(departures + SHRINKS * _shrinks(shapes, shape), shapes) for departures, shapes in best]
            least = min(so_far, key=lambda family: family.departures)
            longer.append(_Growing(least.departures + own, [*least.shapes, shape]))
        best = longer
    return best


def _beyond_near(off: float) -> float:
    return NOT_NEAR * max(0.0, abs(off) - NEAR)


def _shrinks(family: list[Shape], more: Shape) -> bool:
    if not family:
        return False
    last = family[-1]
    return more.d_model < last.d_model or more.n_layers < last.n_layers or more == last


def _candidates(
    wanted: float, error: Callable[[Shape, float], float], vocab_size: int, context_length: int
) -> list[Shape]:
    """Shapes of the few widths around the one that the rule of depth leads to, of its depth, a layer or two beside."""

    def too_large(d_model: int) -> bool:
        return error(_shape(d_model, 0, vocab_size, context_length), wanted) >= 0

    i = bisect.bisect_left(WIDTHS, True, key=too_large)
    return [
        shape
        for d_model in WIDTHS[max(0, i - 2) : i + 2]
        for more in range(-DEPTH_SLACK, DEPTH_SLACK + 1)
        if (shape := _shape(d_model, more, vocab_size, context_length)).n_layers >= FEWEST_LAYERS
    ]


def _shape(d_model: int, more_layers: int, vocab_size: int, context_length: int) -> Shape:
    n_layers = depth_of_width(d_model) + more_layers
    return Shape(n_layers, d_model, heads_of_width(d_model), vocab_size, context_length)


def _fours(count: int) -> int:
    """1 + 4 + 16 + …, so many of them."""
    return sum(4**i for i in range(count))


def _rounded_up(flops: float) -> str:
    """To two digits: 1.3e17."""
    return f"{flops * 1.05:.1e}"


def _doubled(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
