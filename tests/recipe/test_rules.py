"""The rules give Cerebras-GPT's own values where it published one, and stay sane in between and beyond."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import Family
from isoflop.published import published_recipes
from isoflop.recipe import Machine, plan_family
from isoflop.recipe.rules import batch_sequences, batch_tokens, peak_lr, warmup_tokens

MACHINE = Machine("test", 2, 2, 8 * 2**30, "2.15.0", "cpu", 9e11, 2e11, "2026-11-25T00:00:00+00:00")
DATA = {"source": Path("x"), "tokenizer": {"kind": "gpt2"}, "context_length": 2048}
PUBLISHED = published_recipes("Cerebras-GPT")


def test_a_family_of_the_published_sizes_alone_gets_the_published_recipe() -> None:
    targets = [one.params for one in PUBLISHED]
    family = Family.model_validate({"name": "f", "data": DATA, "sizes": {"target_params": targets}})
    for model, one in zip(plan_family(family, MACHINE).models, PUBLISHED, strict=True):
        assert model.shape.params == one.params
        assert (model.shape.n_layers, model.shape.d_model, model.shape.n_heads) == (
            one.n_layers,
            one.d_model,
            one.n_heads,
        )
        assert model.peak_lr == one.peak_lr
        # 13B began with 720 sequences and ended with 1,080, which the rule gives throughout.
        assert model.batch_sequences == one.batch_schedule[-1][1]
        if one.model != "13B":
            assert (model.steps, model.tokens, model.warmup_tokens) == (one.steps, one.tokens, one.warmup_tokens)
        else:
            # The step counter of its second configuration, 38,000 of which stand for the 57,000 of 720 sequences.
            assert (model.steps, model.warmup_tokens) == (116_223, 169 * 1080 * 2048)


def test_mup_takes_the_published_base_rate_at_every_size() -> None:
    assert {peak_lr(one.params, "mup") for one in published_recipes("Cerebras-GPT muP")} == {6e-3}
    assert {one.peak_lr for one in published_recipes("Cerebras-GPT muP")} == {6e-3}
    assert peak_lr(100_000, "mup") == 6e-3


def test_the_pocket_sizes_keep_what_was_measured_for_them() -> None:
    assert [peak_lr(params, "standard") for params in (66_000, 118_000)] == [8e-3, 8e-3]
    assert peak_lr(336_000, "standard") == pytest.approx(5.65e-3, rel=0.01)
    assert [batch_sequences(tokens, 256) for tokens in (1_583_104, 6_725_632)] == [8, 16]
    assert warmup_tokens(1_583_104, 2048) == 316_621


@given(st.floats(4, 13), st.floats(0.001, 2))
def test_rates_fall_and_batches_grow_with_size_without_jumps(log_params: float, step: float) -> None:
    params, more = round(10**log_params), round(10 ** (log_params + step)) + 1
    assert 0 < peak_lr(more, "standard") <= peak_lr(params, "standard") <= 8e-3
    tokens, more_tokens = 20 * params, 20 * more
    ratio = batch_tokens(more_tokens) / batch_tokens(tokens)
    assert 1 <= ratio <= (more_tokens / tokens) * 1.01
    assert batch_sequences(more_tokens, 2048) >= batch_sequences(tokens, 2048) >= 1
    assert batch_tokens(tokens) < tokens / 20


@given(st.integers(10**5, 10**13), st.integers(1, 10**7))
def test_warmup_is_at_most_a_fifth_of_the_run_or_one_step(tokens: int, batch: int) -> None:
    warmup = warmup_tokens(tokens, batch)
    assert 0 < warmup <= max(math.ceil(tokens / 5), batch)
    assert warmup <= max(375_000_000, batch)
