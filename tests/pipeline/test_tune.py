"""Tuning: values that the family file takes, refusals in one line; interruptions are in tests/cli."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.tables import print_tuning
from isoflop.config import Family, load_family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.tune import Trial, Tuning, tune_family
from isoflop.recipe import Machine, plan_family

MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 9e11, 2e11, "2026-11-25T00:00:00+00:00")
TRIALS = 3


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.pipeline.plan._measured", lambda: MACHINE)


@pytest.fixture
def mup_file(family_file: Path) -> Path:
    family_file.write_text(
        'parametrisation = "mup"\n' + family_file.read_text().replace("[recipe]", "[recipe]\nbase_width = 8")
    )
    return family_file


def tune(path: Path, runs: str, listener: Any, trials: int = TRIALS) -> Tuning:
    family = load_family(path, use_tuned=False)
    return tune_family(family, RunFolder(path.parent / runs / family.name), listener, trials)


def test_it_tries_the_familys_own_values_first_and_asked_for_more_it_goes_on(mup_file: Path, heard: Any) -> None:
    whole = tune(mup_file, "whole", heard)
    assert len({tuple(trial.values.values()) for trial in whole.trials}) == TRIALS
    assert whole.trials[0].values == {key: pytest.approx(value, rel=5e-3) for key, value in whole.own.items()}
    assert whole.best.loss == min(trial.loss for trial in whole.trials if trial.loss is not None)
    document = json.loads((whole.folder / "tune.json").read_text())
    assert document["best"]["values"] == whole.best.values
    assert (whole.folder / "tune.svg").read_text().count("<svg") == 1

    # Asked again it has nothing to do; asked for more it goes on.
    assert tune(mup_file, "whole", heard).trials == whole.trials
    assert tune(mup_file, "whole", heard, TRIALS + 1).trials[:TRIALS] == whole.trials


def test_a_best_value_at_the_end_of_the_search_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"peak_lr": 1e-3, "init_std": 0.02, "embedding_multiplier": 1.0}
    middle, edge = Trial(0, own, 3.0), Trial(1, {**own, "peak_lr": 7.9e-3, "init_std": 0.0052}, 2.0)
    tuning = Tuning("f", "m", "mup", 32, own, (middle, edge), Path("tune"))
    assert tuning.at_edge == {"peak_lr": "highest", "init_std": "lowest"}
    assert tuning.to_json()["at_edge"] == tuning.at_edge
    print_tuning(tuning)
    assert "warning: the best peak_lr, 0.0079, lies at the highest end of the search" in capsys.readouterr().out
    inside = replace(tuning, trials=(middle, replace(edge, loss=4.0)))
    assert inside.at_edge == {}
    print_tuning(inside)
    assert "warning" not in capsys.readouterr().out


def test_a_line_that_a_crash_cut_off_is_done_again(mup_file: Path, heard: Any) -> None:
    whole = tune(mup_file, "runs", heard, 2)
    journal = whole.folder / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-20])  # the end of trial 1
    assert tune(mup_file, "runs", heard, 2).trials == whole.trials
    assert len(tune(mup_file, "runs", heard, 3).trials) == 3


def test_the_family_file_takes_what_was_found(mup_file: Path, heard: Any) -> None:
    best = tune(mup_file, "runs", heard, 2).best.values
    text = mup_file.read_text()
    mup_file.write_text('tuned = "runs/tiny/tune/tuned.toml"\n' + text)
    models = plan_family(load_family(mup_file), MACHINE).models
    assert {model.peak_lr for model in models} == {best["peak_lr"]}
    assert {model.parametrisation.embedding_init_std for model in models} == {best["init_std"]}
    assert {model.parametrisation.embedding_multiplier for model in models} == {best["embedding_multiplier"]}

    mup_file.write_text(mup_file.read_text().replace("[recipe]", "[recipe]\npeak_lr = 5e-4"))
    recipe = load_family(mup_file).recipe
    assert (recipe.peak_lr, recipe.init_std) == (5e-4, best["init_std"])

    mup_file.write_text('tuned = "runs/tiny/tune/tuned.toml"\n' + text.replace('"mup"', '"standard"'))
    with pytest.raises(InputError, match=r"parametrisation = standard, but .*tuned.toml was found at mup"):
        load_family(mup_file)
    mup_file.write_text('tuned = "elsewhere.toml"\n' + text)
    with pytest.raises(InputError, match=r"no file at .*elsewhere.toml; isoflop tune"):
        load_family(mup_file)
    load_family(mup_file, use_tuned=False)
    (mup_file.parent / "elsewhere.toml").write_text('parametrisation = "mup"\nbase_width = 8\npeak_lr = -1\n')
    with pytest.raises(InputError, match=r"elsewhere.toml: (peak_lr = -1|init_std: missing)"):
        load_family(mup_file)


def test_a_study_of_other_settings_is_refused(mup_file: Path, heard: Any) -> None:
    tune(mup_file, "runs", heard, 1)
    mup_file.write_text(mup_file.read_text().replace("base_width = 8", "base_width = 16"))
    with pytest.raises(InputError, match=r"study.journal: made with .* to tune anew"):
        tune(mup_file, "runs", heard, 2)


def test_a_smallest_model_with_a_rate_of_its_own_is_refused(mup_file: Path, heard: Any) -> None:
    mup_file.write_text(mup_file.read_text().replace('name = "w8"', 'name = "w8"\nrecipe = { peak_lr = 1e-3 }'))
    with pytest.raises(InputError, match=r"w8 has its own recipe.peak_lr"):
        tune(mup_file, "runs", heard)
    assert not (mup_file.parent / "runs").exists()


def test_trials_that_all_diverge_are_told(mup_file: Path, heard: Any) -> None:
    mup_file.write_text(mup_file.read_text().replace("[recipe]", "[recipe]\npeak_lr = 1e30\nclip_norm = 1e30"))
    with pytest.raises(WorkError, match="every trial diverged; lower"):
        tune(mup_file, "runs", heard, 1)


def test_without_optuna_it_says_what_to_install(
    family: Family, folder: RunFolder, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'isoflop\[tune\]'"):
        tune_family(family, folder, heard, 1)
