"""The law of an accuracy that `isoflop evaluate` measured of a family's models."""

from dataclasses import replace

import pytest

from isoflop.errors import InputError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.predict import Target
from isoflop.pipeline.result import write_result
from isoflop.pipeline.task_law import TaskQuestion, task_law
from isoflop.pipeline.task_scores import Figure, TaskScore, add_task_scores
from isoflop.recipe import Plan
from tests.pipeline.conftest import result_of

SCORE = TaskScore(
    task="right_word",
    shots=0,
    limit=None,
    step=10,
    tokens=1,
    weights_sha256="0",
    precision="fp32",
    metric="acc",
    chance=0.25,
    metrics={"acc": Figure(0.3, 0.01)},
    gold_bits_per_byte=1.0,
    items=100,
    members=(),
    version="1",
    items_sha256="0",
    harness="0.4",
    time="2026-11-25T00:00:00+00:00",
)


@pytest.fixture
def asked(plan: Plan, folder: RunFolder) -> RunFolder:
    """Five trained models, each asked without examples at its last step, two with other ways or steps besides."""
    for k, model in enumerate(plan.models):
        write_result(folder, result_of(model))
        right = replace(SCORE, metrics={"acc": Figure(0.3 + 0.04 * k, 0.01)}, gold_bits_per_byte=1.5 - 0.1 * k)
        early = replace(right, step=5, metrics={"acc": Figure(0.99, 0.01)})
        with_examples = replace(right, shots=5, metrics={"acc": Figure(0.98, 0.01)})
        add_task_scores(folder, model.name, [early, right] + [with_examples] * (k < 2))
    return folder


def test_the_models_last_steps_asked_the_same_way_are_the_points(asked: RunFolder, plan: Plan) -> None:
    law = task_law(asked.path, TaskQuestion("right_word"))
    assert [point.run for point in law.points] == [model.name for model in plan.models]
    assert [point.accuracy for point in law.points] == pytest.approx([0.3, 0.34, 0.38, 0.42, 0.46])
    assert law.question.chance == 0.25
    last = plan.models[-1]
    target = Target(2.0 * last.shape.params, 2.0 * last.tokens)
    (said,) = law.predict([target])
    assert said.low_95 < 0.5 < said.high_95
    assert law.beyond(target) == pytest.approx(4, rel=0.01)


def test_a_task_that_nobody_was_asked_is_refused_with_those_there_are(asked: RunFolder) -> None:
    with pytest.raises(InputError, match="'none'; asked were right_word"):
        task_law(asked.path, TaskQuestion("none"))


def test_models_that_were_asked_nothing_are_sent_to_be_evaluated(plan: Plan, folder: RunFolder) -> None:
    for model in plan.models:
        write_result(folder, result_of(model))
    with pytest.raises(InputError, match="run isoflop evaluate first"):
        task_law(folder.path, TaskQuestion("right_word"))


def test_the_average_is_over_what_all_were_asked_alike_and_a_group_is_one(asked: RunFolder, plan: Plan) -> None:
    for k, model in enumerate(plan.models):
        word = replace(SCORE, task="last_word", chance=0.0, metrics={"acc": Figure(0.1 * k, 0.01)})
        group = replace(SCORE, task="gaps", members=("gaps_a",), metrics={"acc": Figure(0.35, 0.01)})
        member = replace(SCORE, task="gaps_a", metrics={"acc": Figure(0.9, 0.01)})
        own = replace(SCORE, task="own", metrics={"acc": Figure(0.8, 0.01)})  # not asked of all
        add_task_scores(asked, model.name, [word, group, member] + [own] * (k == 0))

    law = task_law(asked.path, TaskQuestion("average"))

    expected = [(0.3 + 0.04 * k + 0.1 * k + 0.35) / 3 for k in range(5)]
    assert [point.accuracy for point in law.points] == pytest.approx(expected)
    assert law.question.chance == pytest.approx((0.25 + 0.0 + 0.25) / 3)
    assert law.points[0].task_loss == pytest.approx((1.5 + 1.0 + 1.0) / 3)
