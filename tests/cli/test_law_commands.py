"""`isoflop law` and `isoflop predict` on anyone's points."""

import json
import math
from itertools import pairwise
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


HEADER = "params,tokens,loss"
FIVE = [(1e8, 3.4), (2e8, 3.2), (4e8, 3.0), (8e8, 2.8), (1.6e9, 2.65)]


def rows(*points: tuple[float, float], share: float = 1.0) -> str:
    return "".join(f"{share * n},{20 * share * n},{loss}\n" for n, loss in points)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEADER}\n{rows(FIVE[0])}", "1 distinct params (100000000); a law needs 3 or more"),
        (f"{HEADER}\n" + "".join(f"1e8,{d}e9,3\n" for d in range(2, 7)), "1 distinct params (100000000)"),
        (f"{HEADER}\n{rows(*FIVE)}3e9,6e10,nan\n", "row 7: loss = nan; give a finite number above 0"),
        ("params,loss\n1e8,3\n", "row 1: no column tokens"),
        (f"{HEADER}\n100M,2B,3.1\n", "row 2: params = '100M' is not a number; write 100000000"),
        (f"{HEADER}\n{rows(*FIVE)}3e9,6e10,-2\n", "row 7: loss = -2"),
    ],
    ids=["one point", "equal sizes", "NaN", "missing column", "units in letters", "below nothing"],
)
def test_points_that_carry_no_law_are_refused_by_name(isoflop, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    done = isoflop("law", "points.csv")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rows(*FIVE, share=1e-6), "params are at most 1600: in millions or billions? Write them out"),
        (rows(*((n, loss / 100) for n, loss in FIVE)), "below what any text leaves uncertain (0.3): check its unit"),
        (rows(*FIVE, FIVE[0]), "1 duplicated row counted once"),
    ],
    ids=["millions", "implausible losses", "duplicates"],
)
def test_suspect_points_are_fitted_and_told(isoflop, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "points.csv").write_text(f"{HEADER}\n{text}")
    done = isoflop("law", "points.csv")
    assert done.returncode == 0
    assert said in done.stdout


def test_flops_beyond_64_bit_integers_are_counted(isoflop, tmp_path: Path) -> None:
    ladder = zip((10**11, 10**12, 10**13, 10**14), (2, 1.8, 1.6, 1.45), strict=True)
    (tmp_path / "points.csv").write_text("\n".join([HEADER, *(f"{n},{20 * n},{loss}" for n, loss in ladder)]))
    (said,) = json.loads(isoflop("predict", "points.csv", "--target", "1e14,2e15", "--json").stdout)["predictions"]
    assert said["flops"] == pytest.approx(1.2e30)
    assert said["low_95"] < 1.45 < said["high_95"]


def test_law_by_least_absolute_deviations_says_so(isoflop, points_file: Path) -> None:
    document = json.loads(isoflop("law", str(points_file), "--objective", "lad", "--json").stdout)
    assert document["objective"] == "lad"
    power = next(form for form in document["forms"] if form["name"] == "power")
    assert power["huber_delta"] == 1e-7
    assert power["gradient_norm"] < 1e-6
    assert "absolute log residual" in isoflop("law", str(points_file), "--objective", "lad").stdout
    wrong = isoflop("law", str(points_file), "--objective", "mse")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_predict_says_bits_per_byte_where_it_can(isoflop, points_file: Path, tmp_path: Path) -> None:
    asked = ("--target", "1e6,2e7", "--json")
    assert json.loads(isoflop("predict", str(points_file), *asked).stdout)["bits_per_byte"] is None
    by_hand = json.loads(isoflop("predict", str(points_file), *asked, "--bytes-per-token", "4").stdout)
    (bits,) = by_hand["bits_per_byte"]
    assert bits["loss"] == pytest.approx(by_hand["predictions"][0]["loss"] / math.log(2) / 4)
    header, *lines = points_file.read_text().splitlines()
    both = tmp_path / "both.csv"
    both.write_text("\n".join([f"{header},bits_per_byte", *(f"{x},{0.4 * float(x.split(',')[2])}" for x in lines)]))
    document = json.loads(isoflop("predict", str(both), *asked).stdout)
    assert document["bits_per_byte"][0]["high_95"] == pytest.approx(0.4 * document["predictions"][0]["high_95"])


def test_over_training_a_smaller_model_has_its_price(isoflop, tmp_path: Path) -> None:
    lines = [HEADER]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        lines += [f"{n},{n * r},{1.8 + 480 / n**0.35 + 2000 / (n * r) ** 0.37:.5f}" for r in (5, 20, 80)]
    (tmp_path / "grid.csv").write_text("\n".join(lines))
    asked = ("predict", "grid.csv", "--loss", "2.4", "--inference-tokens", "1e12")
    smaller = json.loads(isoflop(*asked, "--json").stdout)["smaller"]
    assert smaller[0]["share"] == 1.0
    assert len(smaller) > 2
    for one, next_ in pairwise(smaller):
        assert next_["params"] < one["params"]
        assert next_["tokens"] > one["tokens"]
        assert next_["training_flops"] > smaller[0]["training_flops"]
    half = next(one for one in smaller if one["share"] == 0.5)
    served = 2e0 * half["break_even_tokens"]
    saved = served * (smaller[0]["params"] - half["params"])
    assert saved == pytest.approx(half["training_flops"] - smaller[0]["training_flops"], rel=1e-6)
    assert "cheaper from served" in isoflop(*asked).stdout


def test_accuracy_is_foretold_from_a_table(isoflop, tmp_path: Path) -> None:
    lines = ["run,params,tokens,task_bits,right"]
    for k, n in enumerate((1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9, 6.4e9)):
        loss = 0.5 + (n / 1e8) ** -0.2
        lines.append(f"r{k},{n},{20 * n},{loss:.4f},{0.25 + 0.7 / (1 + math.exp(6 * (loss - 1.1))):.4f}")
    (tmp_path / "tasks.csv").write_text("\n".join(lines))
    asked = ("tasks.csv", "--accuracy", "right", "--task-loss", "task_bits", "--chance", "0.25")
    document = json.loads(isoflop("law", *asked, "--json").stdout)
    assert {way["kind"] for way in document["ways"]} == {"two-step", "direct"}
    (test,) = document["held_out"]
    assert test["low_95"] <= test["measured"] <= test["high_95"]
    foretold = isoflop("predict", *asked, "--target", "1.28e10,2.56e11")
    assert "two-step" in foretold.stdout
    assert "12.8B" in foretold.stdout
    for wrong, said in (
        (("law", "tasks.csv", "--accuracy", "right"), "give --chance"),
        (("law", "tasks.csv", "--accuracy", "wrong", "--chance", "0.25"), "no column wrong; there are run, params"),
        (("law", "tasks.csv", "--chance", "0.25"), "go with --accuracy"),
        (("predict", *asked, "--loss", "2"), "with --accuracy give --target"),
    ):
        done = isoflop(*wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), wrong
        assert said in done.stderr


def test_a_row_given_twice_is_no_further_run_of_the_test_on_the_largest(tmp_path: Path) -> None:
    rows = ["params,tokens,loss", *(f"{n},{20 * n},{3 * (n / 1e7) ** -0.07}" for n in (1e7, 2e7, 4e7, 8e7))]
    (tmp_path / "points.csv").write_text("\n".join([*rows, rows[2]]))
    law, tests = law_of(tmp_path / "points.csv")
    assert any("1 duplicated row" in warning for warning in law.warnings)
    assert not tests
