"""isoflop evaluate: what it prints and refuses; the asking itself is tested in tests/pipeline/test_tasks.py."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from isoflop.cli import task_tables
from isoflop.pipeline.task_scores import Figure, TaskScore
from isoflop.pipeline.tasks import Evaluation

Isoflop = Callable[..., CompletedProcess[str]]


def score(task: str, shots: int, accuracy: float, step: int = 9, members: tuple[str, ...] = ()) -> TaskScore:
    return TaskScore(
        task=task,
        shots=shots,
        limit=None,
        step=step,
        tokens=1000,
        weights_sha256="0" * 64,
        precision="fp32",
        metric="acc",
        chance=0.25,
        metrics={"acc": Figure(accuracy, 0.0123)},
        gold_bits_per_byte=1.5,
        items=100,
        members=members,
        version="1.0",
        items_sha256="0" * 64,
        harness="0.4.13",
        time="2026-11-25T00:00:00+00:00",
    )


def test_accuracies_stand_by_model_and_shots_with_errors_and_guessing(capsys: pytest.CaptureFixture[str]) -> None:
    gaps = score("heldout_cloze", 0, 0.4, members=("heldout_cloze_a",))
    scores = {
        "w8": [gaps, score("heldout_cloze_a", 0, 0.41), score("hellaswag", 0, 0.3)],
        "w16": [score("heldout_cloze", 5, 0.5)],
    }

    task_tables.print_evaluation(Evaluation([], scores, ["something is missing", "hf download x"]))

    printed = capsys.readouterr().out
    zero, five = printed.split("\n5 examples before each question")
    assert "0 examples before each question: accuracy in per cent +- standard error" in zero
    rows = [line.split() for line in zero.splitlines()]
    assert ["model", "cloze", "hellaswag"] in rows
    assert ["w8", "40.0", "+-", "1.2", "30.0", "+-", "1.2"] in rows
    assert ["guessing", "25.0", "25.0"] in rows
    assert ["w16", "50.0", "+-", "1.2"] in [line.split() for line in five.splitlines()]
    assert "heldout_cloze" in printed
    assert "note: something is missing\n    hf download x\n" in printed


def test_several_steps_of_a_model_have_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    task_tables.print_evaluation(Evaluation([], {"w8": [score("a", 0, 0.3, 1_500), score("a", 0, 0.4, 3_000)]}))

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", "step", "a"] in rows
    assert ["w8", "1,500", "30.0", "+-", "1.2"] in rows
    assert ["w8", "3,000", "40.0", "+-", "1.2"] in rows


@pytest.mark.parametrize("arguments", [("--shots", "-1"), ("--step", "x"), ("--limit", "0"), ("--precision", "fp16")])
def test_what_cannot_be_is_refused_with_code_2(arguments: tuple[str, str], isoflop: Isoflop, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("")

    ended = isoflop("evaluate", "f.toml", *arguments)

    assert ended.returncode == 2
    assert arguments[0] in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
