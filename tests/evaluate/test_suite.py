"""Tasks of held-out text: deterministic, true to the text, and no larger than a context holds six of."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import DataSource
from isoflop.data import load_manifest, prepare
from isoflop.data.tokenizer import load_tokenizer
from isoflop.evaluate.held_out_texts import Text, read_texts
from isoflop.evaluate.items import MOST_SAME_ANSWER, endings, gaps, last_words, spread
from isoflop.evaluate.suite import CLOZE, ENDING, LAST_WORD, Suite, make_suite

CONTEXT = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suite") / "tasks"


@pytest.fixture(scope="module")
def suite(data: Path, folder: Path) -> Suite:
    return make_suite(data, folder, CONTEXT)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> dict[str, str]:
    """By name, of all that does not speak of the place."""
    paths = [path for path in folder.iterdir() if path.suffix != ".yaml"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_held_out_documents_come_back_as_they_were(data: Path, texts: list[str]) -> None:
    held_out = read_texts(data)

    assert len(held_out) == load_manifest(data).splits.held_out.documents
    assert {text.text for text in held_out} <= set(texts)
    assert "Novels" in {text.domain for text in held_out}


def test_the_same_documents_give_the_same_bytes_anywhere(
    data: Path, folder: Path, suite: Suite, tmp_path: Path
) -> None:
    again = make_suite(data, tmp_path / "elsewhere" / "tasks", CONTEXT)

    assert again == suite
    assert digests(tmp_path / "elsewhere" / "tasks") == digests(folder)


def test_every_kind_is_there_with_its_chance(suite: Suite) -> None:
    assert suite.names == [LAST_WORD, ENDING, CLOZE]
    assert suite.chances[LAST_WORD] == 0
    assert {suite.chances[name] for name in suite.chances if name != LAST_WORD} == {0.25}
    domains = [task.domain for task in suite.tasks if task.domain is not None]
    assert "Novels" in domains
    assert len(domains) + len(suite.left_out) == 8


def test_the_true_answer_follows_the_passage_in_a_held_out_document(data: Path, folder: Path, suite: Suite) -> None:
    whole = "\0".join(text.text for text in read_texts(data))

    for task in suite.tasks:
        for row in rows(folder / f"{task.name}.jsonl") + rows(folder / f"{task.name}.examples.jsonl"):
            answer = row["target"].strip() if "target" in row else row["choices"][row["gold"]]
            assert f"{row['query']} {answer}" in whole


def test_wrong_answers_are_no_answer_and_stand_at_every_place(folder: Path, suite: Suite) -> None:
    for task in suite.tasks:
        if task.name == LAST_WORD:
            continue
        found = rows(folder / f"{task.name}.jsonl")
        assert all(len(set(row["choices"])) == 4 for row in found)
        for place in range(4):
            assert sum(row["gold"] == place for row in found) > 0.1 * len(found)


def test_questions_and_examples_differ_and_none_is_asked_twice(folder: Path, suite: Suite) -> None:
    for task in suite.tasks:
        asked = [row["query"] for row in rows(folder / f"{task.name}.jsonl")]
        examples = [row["query"] for row in rows(folder / f"{task.name}.examples.jsonl")]
        assert (len(asked), len(examples)) == (task.items, task.examples)
        assert len({*asked, *examples}) == task.items + task.examples


def test_no_last_word_is_the_answer_often(folder: Path, suite: Suite) -> None:
    answers = [row["target"] for row in rows(folder / f"{LAST_WORD}.jsonl")]

    assert max(answers.count(answer) for answer in answers) <= MOST_SAME_ANSWER


def test_the_last_word_stands_in_the_passage(folder: Path, suite: Suite) -> None:
    for row in rows(folder / f"{LAST_WORD}.jsonl"):
        assert row["target"].strip() in row["query"]


def test_six_items_fit_into_a_context(data: Path, folder: Path, suite: Suite) -> None:
    tokenizer = load_tokenizer(data / "tokenizer.json")
    lengths = [
        len(tokenizer.encode(row["query"] + max(row.get("choices", [row.get("target")]), key=len)).ids)
        for task in suite.tasks
        for row in rows(folder / f"{task.name}.jsonl")
    ]

    assert sum(6 * length <= CONTEXT for length in lengths) > 0.6 * len(lengths)
    assert sum(lengths) / len(lengths) < CONTEXT / 6


def test_it_is_made_once_and_again_when_it_was_moved_or_damaged(data: Path, suite: Suite, tmp_path: Path) -> None:
    here = tmp_path / "tasks"
    make_suite(data, here, CONTEXT)
    stamp = (here / "suite.json").stat().st_mtime_ns
    make_suite(data, here, CONTEXT)
    assert (here / "suite.json").stat().st_mtime_ns == stamp

    moved = shutil.copytree(here, tmp_path / "moved")
    make_suite(data, moved, CONTEXT)
    assert str(moved) in (moved / f"{ENDING}.yaml").read_text()

    (here / f"{ENDING}.jsonl").write_text("")
    assert make_suite(data, here, CONTEXT) == suite
    assert len(rows(here / f"{ENDING}.jsonl")) > 0


def test_too_little_text_leaves_tasks_out_by_name(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"Document {number} says little. It ends here. " * 5)
    source = DataSource.model_validate(
        {
            "source": tmp_path,
            "tokenizer": {"kind": "bpe", "vocab_size": 270},
            "context_length": CONTEXT,
            "held_out_fraction": 0.5,
        }
    )
    prepare(source, tmp_path / "data", lambda line: None)

    suite = make_suite(tmp_path / "data", tmp_path / "tasks", CONTEXT)

    assert suite.tasks == ()
    assert suite.names == []
    assert set(suite.left_out) == {LAST_WORD, ENDING, f"{CLOZE}_all"}


def test_a_name_that_is_no_file_name_makes_no_path(data: Path) -> None:
    hostile = [Text(text.number, "../../x: {{ y }}\n", text.text) for text in read_texts(data)[:40]]

    for item in spread(gaps(hostile, 100, 60), 60):
        assert item.domain == hostile[0].domain
    assert spread(last_words(hostile, 100), 3)
    assert spread(endings(hostile, 100, 10), 3)
