"""A forecast is said before the held-out model starts, and stands."""

import json
from dataclasses import replace

import pytest

from isoflop.durable import write_sealed
from isoflop.errors import InputError, WorkError
from isoflop.law import Law
from isoflop.pipeline import RunFolder, law_of
from isoflop.pipeline.forecast import Forecast, foretell, read_forecast
from isoflop.pipeline.result import read_result, write_result
from isoflop.pipeline.verdict import judge
from isoflop.recipe import Plan
from isoflop.report.run import read_run


def _change_a_rung(plan: Plan, folder: RunFolder) -> None:
    result = read_result(folder, plan.ladder[0].name)
    assert result is not None
    write_result(folder, replace(result, nats_per_token=1.02 * result.nats_per_token))


@pytest.mark.usefixtures("train_ladder")
def test_the_forecast_is_written_with_its_law_and_its_points(plan: Plan, folder: RunFolder, heard) -> None:
    forecast = foretell(plan, folder, heard)
    assert forecast is not None
    assert heard.names() == ["fitted", "foretold"]
    held_out = plan.held_out[0]
    assert (forecast.model, forecast.params, forecast.tokens) == ("w32", held_out.shape.params, held_out.tokens)
    truth = 5.0 * (held_out.flops / 1e9) ** -0.07
    assert forecast.low_95 <= forecast.low_80 <= forecast.loss <= forecast.high_80 <= forecast.high_95
    assert forecast.loss == pytest.approx(truth, rel=0.01)
    assert forecast.bits_per_byte.high_95 == pytest.approx(0.6 * forecast.high_95)
    assert [point["run"] for point in forecast.points] == ["w8", "w12", "w16", "w24"]
    assert read_forecast(folder) == forecast
    assert json.loads(folder.law.read_bytes())["points"] == list(forecast.points)


@pytest.mark.usefixtures("train_ladder")
def test_the_same_ladder_leaves_the_forecast_as_it_is(plan: Plan, folder: RunFolder, heard) -> None:
    foretell(plan, folder, heard)
    files = (folder.forecast, folder.law)
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    foretell(plan, folder, heard)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


@pytest.mark.usefixtures("train_ladder")
def test_a_changed_ladder_is_foretold_from_anew_before_the_held_out_model_starts(
    plan: Plan, folder: RunFolder, heard
) -> None:
    before = foretell(plan, folder, heard)
    _change_a_rung(plan, folder)
    after = foretell(plan, folder, heard)
    assert after is not None
    assert before is not None
    assert after.loss != before.loss


@pytest.mark.usefixtures("train_ladder")
@pytest.mark.parametrize("trace", ["metrics.jsonl", "checkpoints"])
def test_a_forecast_stands_once_the_held_out_model_has_started(
    plan: Plan, folder: RunFolder, heard, trace: str
) -> None:
    before = foretell(plan, folder, heard)
    content = folder.forecast.read_bytes()
    _change_a_rung(plan, folder)
    (folder.model("w32") / trace).mkdir(parents=True)
    assert foretell(plan, folder, heard) == before
    assert folder.forecast.read_bytes() == content
    assert "the forecast stands" in heard.notes


@pytest.mark.usefixtures("train_ladder")
def test_no_forecast_is_made_after_the_fact(plan: Plan, folder: RunFolder, heard) -> None:
    (folder.model("w32") / "checkpoints").mkdir(parents=True)
    assert foretell(plan, folder, heard) is None
    assert not folder.forecast.exists()
    assert "too late" in heard.notes


@pytest.mark.usefixtures("train_ladder")
def test_a_ladder_that_is_not_done_foretells_nothing(plan: Plan, folder: RunFolder, heard) -> None:
    folder.result("w16").unlink()
    assert foretell(plan, folder, heard) is None
    assert "1 of the ladder's 4 models are not trained" in heard.notes
    assert not folder.forecast.exists()
    assert not folder.law.exists()


@pytest.mark.usefixtures("train_ladder")
def test_too_few_rungs_are_told_in_one_line_and_stop_nothing(plan: Plan, folder: RunFolder, heard) -> None:
    short = replace(plan, models=plan.models[:2] + plan.models[-1:])
    assert foretell(short, folder, heard) is None
    assert "needs 4 or more" in heard.notes


@pytest.mark.usefixtures("train_ladder")
def test_a_damaged_forecast_is_an_error_not_a_new_forecast(plan: Plan, folder: RunFolder, heard) -> None:
    foretell(plan, folder, heard)
    for damage in (b"", b"[]", b"{}", folder.forecast.read_bytes()[:-9]):
        folder.forecast.write_bytes(damage)
        with pytest.raises(WorkError, match=r"forecast\.json: damaged"):
            foretell(plan, folder, heard)


@pytest.mark.usefixtures("train_ladder")
@pytest.mark.parametrize(
    ("place", "inside_80", "inside_95"),
    [("loss", True, True), ("high_80", True, True), ("high_95", False, True), ("beyond", False, False)],
)
def test_the_verdict_says_where_the_measured_loss_lies(
    plan: Plan, folder: RunFolder, heard, place: str, inside_80: bool, inside_95: bool
) -> None:
    forecast = foretell(plan, folder, heard)
    assert isinstance(forecast, Forecast)
    measured = 1.001 * forecast.high_95 if place == "beyond" else getattr(forecast, place)
    ladder_result = read_result(folder, "w8")
    assert ladder_result is not None
    write_result(folder, replace(ladder_result, name="w32", nats_per_token=measured))
    (verdict,) = judge(plan, folder)
    assert (verdict.inside_80, verdict.inside_95) == (inside_80, inside_95)
    assert verdict.error == pytest.approx(measured / forecast.loss - 1)


@pytest.mark.usefixtures("train_ladder")
def test_a_lost_result_makes_no_other_law_in_silence(plan: Plan, folder: RunFolder) -> None:
    law, _ = law_of(folder.path)
    folder.result("w12").unlink()
    with pytest.raises(InputError, match=r"w12/result.json: gone, and law.json was fitted to it; run isoflop train"):
        law_of(folder.path)
    folder.law.unlink()
    assert len(law_of(folder.path)[0].points) == len(law.points) - 1


@pytest.mark.usefixtures("train_ladder")
def test_a_law_of_an_older_version_is_fitted_again(plan: Plan, folder: RunFolder) -> None:
    law, _ = law_of(folder.path)
    document = {key: value for key, value in law.to_json().items() if key not in ("format", "objective")}
    with pytest.raises(InputError, match="of format 1, this version reads 2; isoflop law fits it again"):
        Law.from_json(document)
    write_sealed(folder.law, document)
    assert (
        "law.json is not shown: it is of format 1, this version reads 2; isoflop law fits it again."
        in read_run(folder.path).gaps
    )
    assert law_of(folder.path)[0].to_json() == law.to_json()
