"""muP's table: which numbers follow from the width, and which do not."""

import math

import pytest

from isoflop.config.family import Recipe
from isoflop.errors import FamilyError
from isoflop.recipe import STANDARD, Shape
from isoflop.recipe.parametrisation import parametrisation_of

SHAPE = Shape(n_layers=14, d_model=1088, n_heads=17, vocab_size=50257, context_length=2048)


def test_mup_at_256m_gives_the_numbers_of_the_published_example() -> None:
    # Cerebras/modelzoo 1.9.1, gpt3/README.md: d_model 1,088 at a base of 256.
    mup = parametrisation_of("mup", Recipe(), SHAPE)
    assert mup.embedding_init_std == 0.08
    assert mup.hidden_init_std == pytest.approx(0.0388, abs=5e-5)
    assert mup.residual_std(SHAPE.n_layers) == pytest.approx(0.007333, abs=1e-6)
    assert mup.output_multiplier == pytest.approx(1 / 4.25)
    assert mup.hidden_lr_multiplier == pytest.approx(1 / 4.25)
    assert (mup.embedding_multiplier, mup.attention_exponent) == (10.0, 1.0)


def test_at_the_base_width_nothing_is_scaled() -> None:
    mup = parametrisation_of("mup", Recipe(base_width=1088, init_std=0.05, embedding_multiplier=3.0), SHAPE)
    assert mup.hidden_init_std == mup.embedding_init_std == 0.05
    assert (mup.output_multiplier, mup.hidden_lr_multiplier, mup.embedding_multiplier) == (1.0, 1.0, 3.0)


def test_the_standard_way_is_gpt2s_and_takes_other_deviations() -> None:
    assert parametrisation_of("standard", Recipe(), SHAPE) == STANDARD
    assert STANDARD.residual_std(14) == 0.02 / math.sqrt(28)
    other = parametrisation_of("standard", Recipe(init_std=0.01, residual_init_std=0.0025, init_truncation=2.0), SHAPE)
    assert (other.embedding_init_std, other.hidden_init_std) == (0.01, 0.01)
    assert (other.residual_std(14), other.init_truncation) == (0.0025, 2.0)


def test_what_mup_derives_cannot_be_set() -> None:
    with pytest.raises(FamilyError, match=r"recipe.residual_init_std = 0.0025: under muP it follows"):
        parametrisation_of("mup", Recipe(residual_init_std=0.0025), SHAPE)
