"""Accuracy foretold from smaller runs: on made data, OLMo's ladder, and Cerebras-GPT's table, the largest held out."""

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


def test_olmo_2_13b_is_foretold_from_the_ladder_about_as_well_as_published() -> None:
    table = published_set("olmo_ladder_published")
    published = {row["task"].split("_val")[0].split("_test")[0]: row for row in table.rows}
    inside = []
    # Social IQa is foretold worse here (11 %) than from smoothed logs (2.7 %): its ladder is nearly all noise.
    for task in ("hellaswag", "piqa", "arc_easy", "socialiqa"):
        points = olmo(task)
        law = fit_downstream(points[:16], CHANCE[task])
        target = points[17]
        said = law.predict(target.params, target.tokens, target.flops)
        theirs = abs(float(published[task]["chained_predicted"]) / float(published[task]["chained_actual"]) - 1)
        inside.append(said.low_95 <= target.accuracy <= said.high_95)
        if task != "socialiqa":
            assert abs(said.accuracy / target.accuracy - 1) < theirs, task
    assert sum(inside) >= 3


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
