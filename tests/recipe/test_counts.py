"""Parameters, FLOPs and tokens against the published recipes of Cerebras-GPT."""

import math
import re
from pathlib import Path

import pytest

import isoflop
from isoflop.recipe import Shape, training_flops

# Layers, width, heads, steps, batch (Dey et al. 2023, table 1; tokens of the released configurations).
CEREBRAS = {
    "111M": (Shape(10, 768, 12, 50257, 2048), 111_050_496),
    "256M": (Shape(14, 1088, 17, 50257, 2048), 255_977_024),
    "590M": (Shape(18, 1536, 12, 50257, 2048), 590_310_912),
    "1.3B": (Shape(24, 2048, 16, 50257, 2048), 1_315_723_264),
    "2.7B": (Shape(32, 2560, 32, 50257, 2048), 2_651_553_280),
    "6.7B": (Shape(32, 4096, 32, 50257, 2048), 6_658_404_352),
    "13B": (Shape(40, 5120, 40, 50257, 2048), 12_853_386_240),
}


@pytest.mark.parametrize("name", CEREBRAS)
def test_parameters_are_counted_exactly(name: str) -> None:
    shape, params = CEREBRAS[name]
    assert shape.params == params
    assert shape.params_non_embedding == params - (50257 + 2048) * shape.d_model


@pytest.mark.parametrize(
    ("name", "tokens", "flops"),
    [
        ("111M", 2.2210e9, 2.6e18),
        ("256M", 5.1196e9, 1.3e19),
        ("590M", 1.18061e10, 6.1e19),
        ("1.3B", 2.63144e10, 2.8e20),
        ("2.7B", 5.30309e10, 1.1e21),
        ("6.7B", 1.331680e11, 6.3e21),
        ("13B", 2.570677e11, 2.3e22),
    ],
)
def test_the_papers_flops_come_out_to_its_two_digits(name: str, tokens: float, flops: float) -> None:
    shape, _ = CEREBRAS[name]
    assert training_flops(shape, round(tokens)).paper == pytest.approx(flops, rel=0.021)


def test_flops_are_the_sum_over_every_matrix_product() -> None:
    shape = Shape(n_layers=3, d_model=64, n_heads=2, vocab_size=1024, context_length=256)
    d, S = 64, 256
    layer = 2 * d * 3 * d + 2 * d * d + 2 * d * 4 * d * 2 + 2 * (2 * S * d)
    forward = 3 * layer + 2 * d * 1024
    assert training_flops(shape).model == 3 * forward


def test_six_nd_uses_all_parameters() -> None:
    shape, params = CEREBRAS["111M"]
    assert training_flops(shape, 1000).six_nd == 6 * params * 1000
    assert math.isclose(training_flops(shape, 20 * params).six_nd / 1.48e18, 1, rel_tol=0.01)


def test_training_flops_are_counted_in_one_file_alone() -> None:
    """Nobody else multiplies sizes to FLOPs: 72 L d^2, 24 d^2, 6 V d or 6 N D."""
    by_hand = re.compile(r"\b(72 \*|24 \* [\w.]*d_model|6(\.0)? \* [\w.]*(params|vocab_size))")
    source = Path(isoflop.__file__).parent
    found = {
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        if path.name != "flops.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_hand.search(line)
    }
    assert not found
