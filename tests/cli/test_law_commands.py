"""`isoflop law` and `isoflop predict` on anyone's points."""

import json
import math
from pathlib import Path

import pytest

from isoflop.errors import InputError
from isoflop.pipeline.law import law_of
from isoflop.pipeline.predict import parse_target, read_targets

PREDICTION = {"params", "tokens", "flops", "loss", "low_80", "high_80", "low_95", "high_95"}


def test_law_prints_its_forms_and_its_test_on_the_largest_run(isoflop, points_file: Path) -> None:
    done = isoflop("law", str(points_file))
    assert done.returncode == 0
    assert "6 runs of 6 sizes" in done.stdout
    assert "power" in done.stdout
    assert "inside" in done.stdout
    assert all(len(line) <= 200 for line in done.stdout.splitlines())


def test_law_as_json_keeps_the_contract(isoflop, points_file: Path) -> None:
    document = json.loads(isoflop("law", str(points_file), "--json").stdout)
    assert document.keys() >= {"forms", "identified", "warnings", "predictions"}
    (prediction,) = document["predictions"]
    (test,) = document["held_out"]
    assert prediction.keys() == PREDICTION
    assert prediction["params"] == 600_000
    assert test["inside_95"]
    assert test["error"] == pytest.approx(test["measured"] / prediction["loss"] - 1)


def test_the_test_on_the_largest_run_does_not_see_it(isoflop, points_file: Path, tmp_path: Path) -> None:
    *others, _last = points_file.read_text().splitlines()
    changed = tmp_path / "changed.csv"
    changed.write_text("\n".join([*others, "600000,12000000,9.9"]) + "\n")
    (one,), (other,) = (law_of(path)[1] for path in (points_file, changed))
    assert one.predicted == other.predicted
    assert one.inside_95
    assert not other.inside_95


def test_predict_as_json_keeps_the_contract(isoflop, points_file: Path, tmp_path: Path) -> None:
    targets = tmp_path / "targets.csv"
    targets.write_text("name,params,tokens\nx,2e6,4e7\n")
    done = isoflop("predict", str(points_file), "--target", "1e6,2e7", "--targets", str(targets), "--json")
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document.keys() >= {"forms", "identified", "warnings", "predictions"}
    assert [p["params"] for p in document["predictions"]] == [1e6, 2e6]
    for p in document["predictions"]:
        assert p.keys() == PREDICTION
        assert p["flops"] == 6 * p["params"] * p["tokens"]
        assert p["low_95"] <= p["low_80"] <= p["loss"] <= p["high_80"] <= p["high_95"]
        truth = 3 * (p["flops"] / 1e12) ** -0.07
        assert p["low_95"] < truth < p["high_95"]
        assert all(math.isfinite(value) for value in p.values())


def test_predict_prints_a_table(isoflop, points_file: Path) -> None:
    done = isoflop("predict", str(points_file), "--target", "1e6,2e7", "--target", "2e6,4e7")
    assert done.returncode == 0
    assert "1.00M" in done.stdout
    assert "40.0M" in done.stdout
    assert "2.40e14" not in done.stdout.splitlines()[0]
    assert "4.80e14" in done.stdout


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("1e6", "1e6"),
        ("1e6,2e7,3", "3"),
        ("x,2e7", "params = 'x'"),
        ("1e6,-2", "tokens = -2"),
        ("nan,1", "params = nan"),
        ("1e6,inf", "tokens = inf"),
        ("", "--target"),
    ],
)
def test_bad_targets_are_refused_with_what_was_given(target: str, said: str) -> None:
    with pytest.raises(InputError, match="--target") as refusal:
        parse_target(target)
    assert said in str(refusal.value)


def test_a_bad_target_is_one_line_and_exit_code_2(isoflop, points_file: Path) -> None:
    done = isoflop("predict", str(points_file), "--target", "1e6", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("params\n1\n", "no column tokens"),
        ("params,tokens\n", "no targets"),
        ("params,tokens\n1e6,many\n", "row 2"),
        ("params,tokens\n1e6\n", "row 2"),
    ],
)
def test_bad_target_files_name_file_and_row(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "targets.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"targets\.csv") as refusal:
        read_targets(path)
    assert said in str(refusal.value)


def test_missing_points_are_one_line_and_exit_code_2(isoflop) -> None:
    done = isoflop("law", "nowhere.csv")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "nowhere.csv" in done.stderr


def test_predict_without_a_target_says_how_to_give_one(isoflop, points_file: Path) -> None:
    done = isoflop("predict", str(points_file))
    assert done.returncode == 2
    assert "--target PARAMS,TOKENS" in done.stderr


def test_a_folder_that_is_no_run_directory_is_refused(isoflop, tmp_path: Path) -> None:
    for command in ("law", "report", "release"):
        done = isoflop(command, str(tmp_path))
        assert done.returncode == 2
        assert "no plan.json" in done.stderr


def test_predict_reads_the_law_the_other_way(isoflop, points_file: Path) -> None:
    done = isoflop("predict", str(points_file), "--budget", "1e15", "--loss", "2.1", "--tokens", "2e7", "--json")
    document = json.loads(done.stdout)
    assert document["unidentified"]
    assert document["choices"].keys() == {"budget", "tokens", "loss"}
    assert document["choices"]["budget"]["prediction"]["flops"] == pytest.approx(1e15)
    assert document["choices"]["tokens"]["prediction"]["params"] == pytest.approx(1e6, rel=0.01)
    assert document["choices"]["loss"]["low_flops"] < document["choices"]["loss"]["high_flops"]
    shown = isoflop("predict", str(points_file), "--target", "1e6,2e7", "--budget", "1e15").stdout
    assert shown.startswith("Law not identified: ")
    assert "x largest" in shown
    assert "Lowest loss for the budget" in shown


def test_law_says_which_runs_to_buy_next(isoflop, points_file: Path) -> None:
    asked = ("law", str(points_file), "--target", "2e6,4e7", "--budget", "2e14")
    document = json.loads(isoflop(*asked, "--json").stdout)
    runs = document["next_runs"]
    assert runs
    assert sum(run["flops"] for run in runs) <= 2e14
    assert runs[-1]["half_width_after"] < runs[0]["half_width_before"]
    assert "Next runs" in isoflop(*asked).stdout
    alone = isoflop("law", str(points_file), "--target", "2e6,4e7")
    assert (alone.returncode, len(alone.stderr.splitlines())) == (2, 1)
