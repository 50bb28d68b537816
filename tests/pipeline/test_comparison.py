"""A family beside published ones: the same units, the same counting, compute for a loss, and openness."""

import json
import os
from pathlib import Path

import pytest

from isoflop.errors import InputError
from isoflop.pipeline.comparison import Comparison, compare_run, keep_comparison
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.result import write_result
from isoflop.pipeline.task_scores import Figure, TaskScore, add_task_scores
from isoflop.published import published_law
from isoflop.recipe import Plan
from tests.pipeline.conftest import result_of


@pytest.fixture(scope="module")
def published() -> Comparison:
    return compare_run(None)


def test_published_models_stand_by_compute_with_what_the_law_needs(published: Comparison) -> None:
    assert [model.flops for model in published.models] == sorted(model.flops for model in published.models)
    models = {(model.family, model.model): model for model in published.models}
    largest = models["Cerebras-GPT", "13B"]
    assert largest.times_law == pytest.approx(largest.flops / published_law().flops(1.572))
    # What the paper is about: the same loss for far less compute, at sizes that others train far longer.
    assert models["Pythia", "70M"].times_law > 20
    assert models["OPT", "13B"].law_flops is None
    assert not any(model.ours for model in published.models)


def test_each_family_says_what_a_loss_would_cost_it(published: Comparison) -> None:
    needed = {one.family: one for one in published.needed}

    assert published.loss == pytest.approx(1.846)  # the best of the five muP models, which all the others reach
    assert set(needed) == {"Cerebras-GPT", "Cerebras-GPT muP", "Pythia", "Pythia deduped"}
    assert needed["Cerebras-GPT"].flops == pytest.approx(published_law().flops(1.846), rel=0.1)
    assert needed["Cerebras-GPT muP"].flops == pytest.approx(1.1e21, rel=0.05)  # its own largest has that loss
    assert needed["Pythia"].flops == pytest.approx(2.2e21, rel=0.05)  # and so has Pythia 1B
    for one in needed.values():
        assert one.low_80 < one.flops < one.high_80
    assert published.needed[0].times_least == 1


def test_a_loss_no_law_reaches_says_so() -> None:
    comparison = compare_run(None, loss=0.1)

    assert all(one.flops is None and "no run within reach" in one.why_not for one in comparison.needed)
    assert all("far above" in one.why_not for one in compare_run(None, loss=11.0).needed)


@pytest.mark.parametrize("loss", [-1.0, 0.0, 12.0, float("nan")])
def test_a_loss_that_is_none_is_refused(loss: float) -> None:
    with pytest.raises(InputError, match="--loss"):
        compare_run(None, loss=loss)


def test_models_of_a_users_file_stand_among_them(tmp_path: Path) -> None:
    lines = ["family,model,flops,nats_per_token,tokens_per_gpt2_token,text,source"]
    lines += [f"Mine,{k},{10.0**k:g},{published_law().loss(10.0**k):.6f},1,Pile test,made" for k in (18, 19, 20, 21)]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")

    comparison = compare_run(None, [tmp_path / "mine.csv"], loss=2.2)

    mine = next(one for one in comparison.needed if one.family == "Mine")
    assert mine.flops == pytest.approx(published_law().flops(2.2), rel=0.05)


@pytest.fixture
def trained(folder: RunFolder, plan: Plan) -> RunFolder:
    """The family with a result for each model, and no data any more."""
    for model in plan.models:
        write_result(folder, result_of(model))
    return folder


def test_ours_are_counted_as_the_paper_counts_and_kept_in_a_file(trained: RunFolder, plan: Plan) -> None:
    comparison = compare_run(trained.path)

    ours = [model for model in comparison.models if model.ours]
    assert [(model.model, model.flops) for model in ours] == [(one.name, one.flops_paper) for one in plan.models]
    assert [model.bits_per_byte for model in ours] == [result_of(one).bits_per_byte for one in plan.models]
    assert json.loads(trained.comparison.read_text()) == json.loads(json.dumps(comparison.to_json()))
    first = comparison.openness[0]
    assert (first["family"], first["ours"], first["data"], first["compute_optimal"]) == ("tiny", True, "unknown", "no")
    assert first["tokens_per_parameter_low"] == pytest.approx(1.0, abs=0.1)


def test_run_keeps_a_comparison_until_a_result_is_newer(trained: RunFolder) -> None:
    keep_comparison(trained)
    first = json.loads(trained.comparison.read_text())
    trained.comparison.write_text("{}")
    keep_comparison(trained)
    assert trained.comparison.read_text() == "{}"

    later = trained.comparison.stat().st_mtime_ns + 10**9
    os.utime(next(trained.path.glob("models/*/result.json")), ns=(later, later))
    keep_comparison(trained)
    assert json.loads(trained.comparison.read_text()) == first


def test_losses_on_another_text_are_not_compared(trained: RunFolder) -> None:
    comparison = compare_run(trained.path)

    assert not any(model.comparable for model in comparison.models if model.ours)
    assert "not comparable" in comparison.notes[0]
    assert "tiny" not in {one.family for one in comparison.needed}


def test_scores_on_whole_published_tasks_are_taken(trained: RunFolder, plan: Plan) -> None:
    model = plan.models[-1]

    def score(task: str, **other: object) -> TaskScore:
        values = {
            "task": task, "shots": 0, "limit": None, "step": model.steps, "tokens": model.tokens,
            "weights_sha256": "0" * 64, "precision": "fp32", "metric": "acc", "chance": 0.25,
            "metrics": {"acc": Figure(0.31, 0.01)}, "gold_bits_per_byte": 1.0, "items": 100, "members": (),
            "version": "1", "items_sha256": "0" * 64, "harness": "0.4.13", "time": "2026-11-25T00:00:00+00:00",
        }  # fmt: skip
        return TaskScore(**{**values, **other})  # type: ignore[arg-type]

    scores = [score("lambada_openai"), score("piqa", limit=10), score("hellaswag", step=1), score("heldout_ending")]
    add_task_scores(trained, model.name, scores)

    ours = next(one for one in compare_run(trained.path).models if one.ours and one.model == model.name)
    assert ours.scores == {0: {"lambada": 0.31}}
    assert ours.averages == {0: None}
