"""Accuracy foretold from smaller runs: on made data, OLMo's ladder, and Cerebras-GPT's table, the largest held out."""

from dataclasses import replace

import numpy as np
import pytest

from isoflop.errors import InputError
from isoflop.law.downstream import TaskPoint, fit_downstream
from isoflop.published import published_models, published_set

# Multiple choice among so many answers.
CHANCE = {"hellaswag": 0.25, "arc_easy": 0.25, "arc_challenge": 0.25, "piqa": 0.5, "csqa": 0.2, "socialiqa": 1 / 3}


def olmo(task: str) -> list[TaskPoint]:
    table = published_set("olmo_ladder")
    names = ("params", "tokens", "flops_per_token", f"{task}_bits_per_byte", f"{task}_accuracy")
    rows = zip(*(table.numbers(name) for name in names), table.texts("run"), strict=True)
    return [TaskPoint(n, d, d * per_token, x, a, run) for n, d, per_token, x, a, run in rows]


def cerebras(task: str) -> list[TaskPoint]:
    table = published_set("zero_shot")
    sizes = {model.model: model for model in published_models("Cerebras-GPT")}
    return [
        TaskPoint(sizes[m].params, sizes[m].tokens, float(c), float(x), float(a), m)
        for family, m, c, x, a in zip(
            *(table.texts(k) for k in ("family", "model", "flops", "nats_per_token", task)), strict=True
        )
        if family == "Cerebras"
    ]


def test_made_accuracies_between_chance_and_ceiling_are_foretold() -> None:
    rng = np.random.default_rng(0)
    points = []
    for k, flops in enumerate(np.geomspace(1e18, 1e23, 14)):
        loss = 0.5 + (flops / 1e18) ** -0.1
        accuracy = 0.25 + 0.65 / (1 + np.exp(6 * (loss - 1.0))) + rng.normal(0, 0.005)
        points.append(TaskPoint(np.sqrt(flops / 120), 20 * np.sqrt(flops / 120), flops, loss, accuracy, str(k)))
    law = fit_downstream(points[:-2], 0.25)
    for point in points[-2:]:
        said = law.predict(point.params, point.tokens, point.flops)
        assert said.low_95 <= point.accuracy <= said.high_95
        assert said.accuracy == pytest.approx(point.accuracy, abs=0.03)
        assert 0.25 <= said.low_95 <= said.low_80 <= said.accuracy <= said.high_80 <= said.high_95 <= 1


def test_olmo_2_13b_is_foretold_from_the_ladder_better_than_published() -> None:
    # All eleven tasks: benchmarks/law_downstream.py.
    task = "hellaswag"
    published = {row["task"]: row for row in published_set("olmo_ladder_published").rows}[f"{task}_val"]
    points = olmo(task)
    law = fit_downstream(points[:16], CHANCE[task])
    target = points[17]
    said = law.predict(target.params, target.tokens, target.flops)
    theirs = abs(float(published["chained_predicted"]) / float(published["chained_actual"]) - 1)
    assert said.low_95 <= target.accuracy <= said.high_95
    assert abs(said.accuracy / target.accuracy - 1) < theirs


def test_cerebras_gpt_13b_is_foretold_from_the_six_below() -> None:
    for task, chance in (("average", 0.3), ("hellaswag", 0.25), ("lambada", 0.0), ("piqa", 0.5)):
        points = cerebras(task)
        law = fit_downstream(points[:6], chance)
        said = law.predict(points[6].params, points[6].tokens, points[6].flops)
        print(task, law.kind, law.errors, said, points[6].accuracy)
        assert said.low_95 <= points[6].accuracy <= said.high_95, task
        assert said.accuracy == pytest.approx(points[6].accuracy, abs=0.06), task


def test_percent_and_too_few_runs_are_refused_in_one_line() -> None:
    points = olmo("piqa")
    with pytest.raises(InputError, match="needs 5"):
        fit_downstream(points[:4], 0.5)
    with pytest.raises(InputError, match="not per cent"):
        fit_downstream([*points[:6], TaskPoint(1e9, 2e10, 1e20, 1.0, 61.0, "x")], 0.5)
    with pytest.raises(InputError, match="chance"):
        fit_downstream(points, 1.5)
    with pytest.raises(InputError, match="task_loss = nan"):
        fit_downstream([*points[:6], TaskPoint(1e9, 2e10, 1e20, float("nan"), 0.6, "x")], 0.5)
    with pytest.raises(InputError, match="1 distinct flops"):
        fit_downstream([points[0]] * 6, 0.5)


def test_models_that_answer_worse_than_guessing_do_not_pull_the_sigmoid_up() -> None:
    # ARC challenge: 0.17 at 111M to 0.37 at 13B, among four answers.
    points = cerebras("arc_challenge")
    law = fit_downstream(points[:6], 0.25)
    said = law.predict(points[6].params, points[6].tokens, points[6].flops)
    assert law.sigmoid.chance < points[0].accuracy
    assert said.low_95 <= points[6].accuracy <= said.high_95
    assert said.accuracy == pytest.approx(points[6].accuracy, abs=0.06)


def test_without_task_losses_accuracy_follows_from_compute_and_the_same_seed_gives_the_same() -> None:
    points = [replace(point, task_loss=None) for point in cerebras("lambada")]
    law = fit_downstream(points[:6], 0.0)
    assert (law.kind, law.loss_law, law.errors.keys()) == ("direct", None, {"direct"})
    at = (points[6].params, points[6].tokens, points[6].flops)
    assert law.predict(*at) == fit_downstream(points[:6][::-1], 0.0).predict(*at)
    far = law.predict(points[6].params, points[6].tokens, 100 * points[6].flops)
    near = law.predict(*at)
    assert far.high_95 - far.low_95 > near.high_95 - near.low_95
