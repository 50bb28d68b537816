"""Tokens are the clock of batch and learning rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.recipe import BatchStage, learning_rate, steps_of
from isoflop.recipe.schedule import kept_steps, step_at, tokens_until


def rate(tokens: int, decay: str = "linear") -> float:
    return learning_rate(tokens, tokens=1000, warmup_tokens=100, peak_lr=2.0, final_lr_fraction=0.1, decay=decay)  # type: ignore[arg-type]


def test_the_rate_rises_over_the_warm_up_and_falls_to_its_last_fraction() -> None:
    assert rate(50) == pytest.approx(1.0)
    assert rate(100) == pytest.approx(2.0)
    assert rate(550) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rate(1000) == pytest.approx(0.2)
    assert rate(325, "cosine") == pytest.approx(2.0 * (0.1 + 0.9 * (1 + 0.5**0.5) / 2))
    assert rate(1000, "cosine") == pytest.approx(0.2)


def test_the_13b_batch_grows_on_the_way() -> None:
    """57,000 steps of 720 sequences, then 1,080 (README of modelzoo Release 1.9.1)."""
    switch = 57_000 * 720 * 2048
    runs = steps_of([BatchStage(0, 720), BatchStage(switch, 1080)], 257_067_724_800, 2048)
    assert (runs[0].steps, runs[0].sequences) == (57_000, 720)
    assert (runs[1].first_step, runs[1].sequences) == (57_000, 1080)
    assert step_at(runs, 57_000).first_sequence == 57_000 * 720
    assert runs[0].steps + runs[1].steps == 135_223


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(1, 20_000),
    st.integers(1, 64),
)
def test_whole_steps_follow_on_until_no_other_fits(
    stages: list[tuple[int, int]], tokens: int, context_length: int
) -> None:
    starts = [0]
    for gap, _ in stages[:-1]:
        starts.append(starts[-1] + gap)
    schedule = [BatchStage(start, sequences) for start, (_, sequences) in zip(starts, stages, strict=True)]
    runs = steps_of(schedule, tokens, context_length)
    sequence = step = 0
    for run in runs:
        for i in range(run.steps):
            began = sequence * context_length
            stage = [one for one in schedule if one.from_tokens <= began][-1]
            this = step_at(runs, step)
            assert (this.first_sequence, this.sequences) == (sequence, stage.sequences), (run, i)
            assert began + this.sequences * context_length <= tokens or step == 0
            sequence, step = sequence + this.sequences, step + 1
    following = next(one for one in reversed(schedule) if one.from_tokens <= sequence * context_length)
    assert (sequence + following.sequences) * context_length > tokens
    assert steps_of(schedule, sequence * context_length, context_length) == runs


def test_steps_that_stay_lie_evenly_before_the_last() -> None:
    assert kept_steps(100, 3) == (25, 50, 75)
    assert kept_steps(100, 0) == ()
    assert kept_steps(3, 10) == (1, 2)
    assert kept_steps(1, 5) == ()


def test_tokens_until_a_step_follow_the_batches() -> None:
    runs = steps_of([BatchStage(0, 2), BatchStage(60, 5)], 300, 10)

    assert [tokens_until(runs, step, 10) for step in (0, 1, 3, 4)] == [0, 20, 60, 110]
    assert tokens_until(runs, sum(run.steps for run in runs), 10) == sum(run.steps * run.sequences for run in runs) * 10
