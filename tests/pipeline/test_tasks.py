"""Downstream tasks of a family: every model and saved step, once, with what is missing told."""

import itertools
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from isoflop.config import Family, load_family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.task_scores import read_task_scores
from isoflop.pipeline.tasks import Wish, evaluate_tasks, parse_wish, wish_of
from isoflop.pipeline.train import train_family
from isoflop.pipeline.weights import saved_steps

pytest.importorskip("lm_eval", reason="needs the extra eval")

CORPUS = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"
FAMILY = """
name = "asked"
precision = "fp32"
held_out = false
checkpoint_seconds = 0.001

[data]
source = "some.jsonl"
tokenizer = { kind = "bpe", vocab_size = 400 }
context_length = 64
held_out_fraction = 0.5

[recipe]
tokens_per_parameter = 0.2
batch_schedule = [{ from_tokens = 0, sequences = 8 }]

[evaluation]
tasks = ["heldout"]
shots = [0, 1]
limit = 12
""" + "".join(f'\n[[models]]\nname = "w{width}"\nn_layers = 1\nd_model = {width}\nn_heads = 2\n' for width in (8, 16))
Asked = tuple[Family, RunFolder]


class Quiet:
    """A listener that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    with zstandard.open(CORPUS, "rt", encoding="utf-8") as lines, open(folder / "some.jsonl", "w") as some:
        some.writelines(itertools.islice(lines, 0, None, 12))
    (folder / "asked.toml").write_text(FAMILY)
    train_family(load_family(folder / "asked.toml"), RunFolder(folder / "runs" / "asked"), Quiet())  # type: ignore[arg-type]
    return folder


@pytest.fixture
def asked(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A copy of the family with its trained models, without scores, and an empty cache of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    copy = shutil.copytree(trained, tmp_path / "copy")
    return load_family(copy / "asked.toml"), RunFolder(copy / "runs" / "asked")


def evaluate(asked: Asked, **given: Any) -> Any:
    family, folder = asked
    return evaluate_tasks(family, folder, Quiet(), wish_of(family, **given))  # type: ignore[arg-type]


def test_every_model_is_asked_once_and_its_scores_are_kept(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = asked

    evaluation = evaluate(asked)

    assert list(evaluation.scores) == ["w8", "w16"]
    for name, scores in evaluation.scores.items():
        assert {score.shots for score in scores} == {0, 1}
        headline = [score.task for score in scores if score.shots == 0][:2]
        assert headline == ["heldout_last_word", "heldout_ending"]
        assert all(score.metric == "acc" and score.items in (12, 12 * 8) for score in scores)
        assert all(0 <= score.figure.value <= 1 and score.figure.stderr is not None for score in scores)
        assert {score.key for score in read_task_scores(folder, name)} == {score.key for score in scores}
    result = json.loads(folder.result("w16").read_text())
    assert {score.weights_sha256 for score in evaluation.scores["w16"]} == {result["weights_sha256"]}
    assert {score.step for score in evaluation.scores["w16"]} == {result["steps"]}

    monkeypatch.setitem(sys.modules, "isoflop.evaluate.harness", None)  # what would ask again is gone
    assert evaluate(asked).scores == evaluation.scores


def test_only_what_is_missing_is_asked(asked: Asked) -> None:
    family, folder = asked
    evaluate(asked, shots=(0,), model="w8")
    heard = Quiet()

    evaluate_tasks(family, folder, heard, wish_of(family, shots=(0,)))  # type: ignore[arg-type]

    assert [note.split(",")[0] for note in heard.notes if "in " in note] == ["w16"]


def test_saved_steps_are_asked_too(asked: Asked) -> None:
    _, folder = asked
    (model,) = (model for model in wish_models(asked) if model.name == "w16")
    steps = saved_steps(model, folder)
    assert len(steps) == 2

    evaluation = evaluate(asked, step="all", model="w16", shots=(0,), tasks=("heldout",))

    scores = [score for score in evaluation.scores["w16"] if score.task == "heldout_ending"]
    assert [score.step for score in scores] == steps
    assert scores[0].tokens < scores[1].tokens == model.tokens
    assert scores[0].weights_sha256 != scores[1].weights_sha256
    assert scores[0].gold_bits_per_byte != scores[1].gold_bits_per_byte


def wish_models(asked: Asked) -> Any:
    from isoflop.pipeline.plan import make_plan

    return make_plan(*asked).models


def test_a_step_that_was_not_kept_is_told_with_those_that_were(asked: Asked) -> None:
    with pytest.raises(InputError, match=r"w8: no checkpoint of step 0; there are \d+"):
        evaluate(asked, step=0, model="w8")


def test_published_tasks_without_data_are_left_out_and_told(asked: Asked) -> None:
    evaluation = evaluate(asked, tasks=("heldout", "published"), shots=(0,), model="w8")

    assert evaluation.notes[0].startswith("left out, as their data sets are not on this machine: hellaswag, piqa,")
    assert "hf download baber/piqa --repo-type dataset --local-dir DATA/piqa" in evaluation.notes


def test_a_task_by_name_must_have_its_data(asked: Asked) -> None:
    with pytest.raises(InputError, match="piqa: its data set baber/piqa is not on this machine"):
        evaluate(asked, tasks=("piqa",))


def test_data_in_a_folder_are_used(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "sets" / "piqa").mkdir(parents=True)
    row = {"goal": "To open a jar", "sol1": "turn its lid.", "sol2": "eat it.", "label": 0}
    for split in ("train", "validation"):
        (tmp_path / "sets" / "piqa" / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * 3)

    evaluation = evaluate(asked, tasks=("published",), shots=(0,), model="w8", data_dir=tmp_path / "sets")

    (score,) = evaluation.scores["w8"]
    assert (score.task, score.items, score.chance) == ("piqa", 3, 0.5)


def test_own_tasks_in_a_folder_are_asked(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    rows = tmp_path / "own" / "rows.jsonl"
    rows.write_text((json.dumps({"q": "One and one are", "a": " two"}) + "\n") * 4)
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "target_delimiter": "",
    }
    (tmp_path / "own" / "sums.yaml").write_text(json.dumps(task))

    evaluation = evaluate(asked, tasks=("sums",), shots=(0,), model="w8", task_folder=tmp_path / "own")

    (score,) = evaluation.scores["w8"]
    assert (score.task, score.items, score.chance) == ("sums", 4, None)


def test_damaged_scores_are_told(asked: Asked) -> None:
    _, folder = asked
    folder.task_scores("w8").write_text('{"format": 1}')

    with pytest.raises(WorkError, match=r"tasks\.json: damaged .* delete it and run isoflop evaluate again"):
        evaluate(asked)


def test_without_the_harness_its_extra_is_named(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    import isoflop.pipeline.tasks as tasks

    def missing(_: str) -> str:
        raise tasks.PackageNotFoundError

    monkeypatch.setattr(tasks, "version", missing)

    with pytest.raises(InputError, match=r"pip install 'isoflop\[eval\]'"):
        evaluate(asked)


def test_nothing_is_fetched_unless_asked_for(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    evaluate(asked, shots=(0,), model="w8")

    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ","}, "--tasks ',': give names"),
        ({"shots": "0,many"}, "--shots '0,many': give whole numbers up to 100"),
        ({"shots": "101"}, "--shots '101'"),
        ({"step": "last"}, "--step 'last': give the number of a saved step, or all"),
        ({"precision": "fp8"}, "--precision 'fp8': use fp32 or bf16"),
    ],
)
def test_what_cannot_be_wished_for_is_told(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as told:
        parse_wish(**{"tasks": None, "shots": None, "step": None, "precision": None} | given)

    assert str(told.value).startswith(message)


def test_the_command_line_goes_before_the_file(asked: Asked) -> None:
    family, _ = asked

    assert wish_of(family) == Wish(("heldout",), (0, 1), 12)
    assert wish_of(family, shots=(5,), limit=None) == replace(wish_of(family), shots=(5,))
    assert wish_of(family, step=None, limit=3).limit == 3
