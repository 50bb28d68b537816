"""Results are whole, and belong to the settings they were trained with."""

import json
from dataclasses import replace

import pytest

from isoflop.config import Family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.result import read_result, read_results, refuse_changes
from isoflop.recipe import Plan


@pytest.mark.usefixtures("train_ladder")
def test_results_come_back_as_they_were_written(plan: Plan, folder: RunFolder) -> None:
    results = read_results(folder, plan)
    assert [result.name for result in results] == ["w8", "w12", "w16", "w24"]
    refuse_changes(folder, plan, None)


@pytest.mark.usefixtures("train_ladder")
def test_a_result_of_other_settings_is_refused_and_the_settings_are_named(plan: Plan, folder: RunFolder) -> None:
    changed = replace(plan, models=tuple(replace(model, peak_lr=0.5, clip_norm=2.0) for model in plan.models))
    with pytest.raises(InputError) as refusal:
        refuse_changes(folder, changed, None)
    text = str(refusal.value)
    assert "peak_lr was" in text
    assert "is 0.5" in text
    assert "clip_norm was 1.0 and is 2.0" in text
    assert "--runs" in text
    assert "\n" not in text


@pytest.mark.usefixtures("train_ladder")
def test_what_does_not_decide_the_weights_may_change(plan: Plan, folder: RunFolder) -> None:
    cheaper = replace(plan, models=tuple(replace(model, price=1.0, seconds=9.0) for model in plan.models))
    refuse_changes(folder, cheaper, None)


@pytest.mark.usefixtures("train_ladder")
def test_a_damaged_result_is_named(folder: RunFolder) -> None:
    path = folder.result("w8")
    for damage in (b"", b"[]", b"{}", path.read_bytes()[:100]):
        path.write_bytes(damage)
        with pytest.raises(WorkError, match=r"w8/result\.json: damaged"):
            read_result(folder, "w8")


@pytest.mark.usefixtures("train_ladder")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nats_per_token", "abc"),
        ("nats_per_token", None),
        ("nats_per_token", -1.0),
        ("fingerprint", None),
        ("name", "w12"),
    ],
)
def test_a_result_that_no_training_leaves_is_damaged(folder: RunFolder, key: str, value: object) -> None:
    path = folder.result("w8")
    document = {**json.loads(path.read_text()), key: value}
    path.write_text(json.dumps(document))
    with pytest.raises(WorkError, match=r"w8/result\.json: damaged \(its SHA-256 does not hold"):
        read_result(folder, "w8")
    del document["sha256"]  # as written before there was one
    path.write_text(json.dumps(document))
    with pytest.raises(WorkError, match=rf"w8/result\.json: damaged \(.*{key}") as caught:
        read_result(folder, "w8")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("train_ladder")
def test_when_all_is_trained_the_machine_is_not_measured_again(family: Family, plan: Plan, folder: RunFolder) -> None:
    folder.model("w32").mkdir()
    folder.result("w32").write_bytes(folder.result("w8").read_bytes())
    assert make_plan(family, folder) == plan
