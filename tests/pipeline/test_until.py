"""The ladder's runs chosen one by one, until the held-out model's interval is narrow or the budget ends."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import isoflop.pipeline.until as until
from isoflop.config import Family, load_family
from isoflop.errors import InputError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.forecast import read_forecast
from isoflop.pipeline.plan import prepared
from isoflop.pipeline.result import read_result, write_result
from isoflop.recipe import Plan
from tests.pipeline.conftest import Heard, result_of


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, plan: Plan, folder: RunFolder) -> list[str]:
    """Training leaves at once what a power law says; which models were asked for, in order."""
    asked: list[str] = []

    def train(family: Family, plan: Plan, data: None, folder: RunFolder, heard: Heard, only: str) -> None:
        asked.append(only)
        write_result(folder, result_of(next(model for model in plan.models if model.name == only)))

    monkeypatch.setattr(until, "make_plan", lambda family, folder: plan)
    data = SimpleNamespace(splits=SimpleNamespace(train=SimpleNamespace(tokens=10**9)))
    monkeypatch.setattr(until, "make_ready", lambda *given: data)
    monkeypatch.setattr(until, "train_models", train)
    return asked


def test_it_trains_until_the_interval_is_narrow_and_then_nothing(
    family: Family, folder: RunFolder, heard: Heard, trained: list[str]
) -> None:
    done = until.run_until(family, folder, heard, 0.5, None)
    assert done.reached
    assert done.half_width <= 0.5
    assert sorted(trained) == ["w12", "w16", "w24", "w8"]
    assert done.spent_flops <= done.budget_flops
    assert read_result(folder, "w32") is None
    again = until.run_until(family, folder, heard, 0.5, None)
    assert len(trained) == 4
    assert again == done


def test_real_training_stops_as_soon_as_the_interval_is_narrow(family_file: Path, heard: Heard) -> None:
    """Four sizes, two seeds each: after one of each the interval is +-50 %, after six of the eight runs +-12 %."""
    text = family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 3.0")
    text = text.replace("context_length = 32", "context_length = 32\nepochs = 8")
    family_file.write_text(text.replace("n_heads = 2\n", "n_heads = 2\nseeds = 2\n", 4))
    folder = RunFolder(family_file.parent / "runs" / "tiny")
    done = until.run_until(load_family(family_file), folder, heard, 0.25, None)
    widths = [float(width) / 100 for width in re.findall(r"interval \+-([\d.]+) %", heard.notes)]
    assert widths[-1] <= 0.25 < min(widths[:-1])
    assert done.reached
    assert done.left
    assert not [name for name in (*done.left, "w32") if folder.result(name).exists()]
    assert all(folder.result(name).exists() for name in done.trained)
    forecast = read_forecast(folder)
    assert forecast is not None
    assert (forecast.model, len(forecast.points)) == ("w32", len(done.trained))
    assert math.log(forecast.high_95 / forecast.low_95) / 2 == pytest.approx(done.half_width)


def test_it_goes_on_from_what_is_trained(
    family: Family, plan: Plan, folder: RunFolder, heard: Heard, trained: list[str]
) -> None:
    write_result(folder, result_of(plan.models[1]))
    until.run_until(family, folder, heard, 0.5, None)
    assert trained == ["w8", "w16", "w24"]


def test_more_seeds_are_bought_while_the_interval_is_too_wide(
    family: Family, folder: RunFolder, heard: Heard, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.recipe import plan_family
    from tests.pipeline.conftest import MACHINE

    assert family.models is not None
    sizes = [size.model_copy(update={"seeds": 2}) for size in family.models[:-1]]
    more = family.model_copy(update={"models": [*sizes, family.models[-1]]})
    plan = plan_family(more, MACHINE)
    monkeypatch.setattr(until, "make_plan", lambda family, folder: plan)
    budget = 1.001 * sum(model.flops for model in plan.ladder if model.seed == 0) + plan.ladder[0].flops
    done = until.run_until(more, folder, heard, 1e-6, budget)
    assert not done.reached
    assert len(trained) == 5
    assert done.spent_flops <= budget
    forecast = read_forecast(folder)
    assert forecast is not None
    assert (forecast.model, len(forecast.points)) == ("w32", 5)
    assert set(done.left) == {model.name for model in plan.ladder} - set(trained)


def test_a_design_names_the_runs_and_what_they_bring(plan: Plan, folder: RunFolder) -> None:
    assert [run.model for run in until.design(plan, folder, None)] == ["w8", "w12", "w16", "w24"]
    for model in plan.ladder:
        write_result(folder, result_of(model))
    assert until.design(plan, folder, None) == []


def test_a_whole_ladder_is_designed_before_any_run(family: Family, folder: RunFolder) -> None:
    from isoflop.recipe import plan_family
    from tests.pipeline.conftest import MACHINE

    assert family.models is not None
    sizes = [size.model_copy(update={"seeds": 3}) for size in family.models[:-1]]
    plan = plan_family(family.model_copy(update={"models": [*sizes, family.models[-1]]}), MACHINE)
    budget = 0.8 * sum(model.flops for model in plan.ladder)
    designed = until.design(plan, folder, budget)
    assert [run.model for run in designed[:4]] == ["w8", "w12", "w16", "w24"]
    assert len(designed) > 5
    assert len({run.model for run in designed}) == len(designed)
    assert sum(run.flops for run in designed) <= budget
    assert [run.half_width_before for run in designed[5:]] == [run.half_width_after for run in designed[4:-1]]
    narrowing = [run.half_width_after for run in designed[4:]]
    assert narrowing == sorted(narrowing, reverse=True)
    assert designed[4].half_width_before < 0.2
    short = until.design(plan, folder, 1.01 * plan.ladder[0].flops)
    assert [run.model for run in short] == ["w8"]


@pytest.mark.parametrize("text", ["", "0", "1", "-1%", "x", "100%", "nan"])
def test_a_width_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--until-width"):
        until.parse_width(text)


def test_widths() -> None:
    assert until.parse_width("1%") == until.parse_width("0.01") == 0.01


def test_a_budget_that_pays_for_no_law_is_refused(
    family: Family, folder: RunFolder, heard: Heard, trained: list[str]
) -> None:
    cheapest = sum(sorted(model.flops for model in until.make_plan(family, folder).ladder)[:4])
    with pytest.raises(InputError, match=r"a law begins with runs that take .* raise it"):
        until.run_until(family, folder, heard, 0.01, 0.99 * cheapest)
    assert trained == []


def test_a_ladder_too_short_for_a_law_is_refused_before_any_run(
    family: Family, folder: RunFolder, heard: Heard, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.recipe import plan_family
    from tests.pipeline.conftest import MACHINE

    assert family.models is not None
    few = plan_family(family.model_copy(update={"models": family.models[2:]}), MACHINE)
    monkeypatch.setattr(until, "make_plan", lambda family, folder: few)
    with pytest.raises(InputError, match="4 runs of 3 sizes or more below w32, the family has 2"):
        until.run_until(family, folder, heard, 0.01, None)
    assert trained == []


def test_text_that_a_later_run_lacks_is_missed_before_the_first(family_file: Path, heard: Heard) -> None:
    """The ladder's smallest runs read less than the text holds, its largest more."""
    text = family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 3.0")
    family_file.write_text(text)
    family, folder = load_family(family_file), RunFolder(family_file.parent / "runs" / "tiny")
    with pytest.raises(InputError, match=r"w24 reads .* data\.epochs allows 1: write epochs"):
        until.run_until(family, folder, heard, 0.25, None)
    models = until.make_plan(family, folder).ladder
    data = prepared(folder)
    assert data is not None
    assert min(model.tokens for model in models) < data.splits.train.tokens
    assert not any(folder.model(model.name).exists() for model in models)


def test_what_the_budget_cannot_pay_for_need_not_have_its_text(family_file: Path, heard: Heard) -> None:
    """Text for the four smallest alone, and the target's lack told, not refused."""
    text = family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 3.0")
    text = text.replace("context_length = 32", "context_length = 32\nepochs = 1.5")
    more = '[[models]]\nname = "w48"\nn_layers = 1\nd_model = 48\nn_heads = 2\n'
    family_file.write_text(f"{text}\n{more}")
    family, folder = load_family(family_file), RunFolder(family_file.parent / "runs" / "tiny")
    ladder = until.make_plan(family, folder).ladder
    budget = float(sum(model.flops for model in ladder[:4]))
    with pytest.raises(InputError, match="w32 reads"):
        until.run_until(family, folder, heard, 0.001, None)
    done = until.run_until(family, folder, heard, 0.001, budget)
    assert done.trained == ("w8", "w12", "w16", "w24")
    assert "foretold, but not to be trained so: w48 reads" in heard.notes
