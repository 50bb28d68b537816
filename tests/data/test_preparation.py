"""The switches of preparation: copies, overlap with tasks, weights of domains, order and ends of documents."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from isoflop.config import DataSource, Gpt2Tokenizer
from isoflop.data import DocumentIndex, Manifest, TokenStream, load_tokenizer, prepare
from isoflop.data.contamination import load_tasks
from isoflop.data.manifest import SplitName
from isoflop.errors import InputError


@pytest.fixture
def data(tmp_path: Path, pocket_lines: list[str]) -> DataSource:
    """The slice of the pocket corpus in two files, in GPT-2 tokens, with a test split."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(pocket_lines[:80]), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(pocket_lines[80:]), encoding="utf-8")
    return DataSource(
        source=folder,
        tokenizer=Gpt2Tokenizer(kind="gpt2"),
        context_length=64,
        held_out_fraction=0.1,
        test_fraction=0.1,
    )


def made(data: DataSource, folder: Path, **settings: object) -> Manifest:
    return prepare(data.model_copy(update=settings), folder, lambda line: None)


def texts_of(folder: Path, split: SplitName = "train") -> list[str]:
    stream = TokenStream(folder, split)
    tokens = stream.sample(0, stream.n_tokens - 1)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    ends = np.flatnonzero(tokens == 50_256)
    return [tokenizer.decode(part[part != 50_256].tolist()) for part in np.split(tokens, ends + 1)[:-1]]


def test_three_splits_part_the_corpus(data: DataSource, tmp_path: Path, pocket_lines: list[str]) -> None:
    manifest = made(data, tmp_path / "data")
    sides = [texts_of(tmp_path / "data", split) for split in ("train", "held_out", "test")]
    assert Counter(text for side in sides for text in side) == Counter(
        json.loads(line)["text"] for line in pocket_lines
    )
    assert min(map(len, sides)) > 5
    assert manifest.splits.test.documents == len(sides[2])


def test_exact_copies_are_left_out_wherever_they_lie_and_the_first_stays(
    data: DataSource, tmp_path: Path, pocket_lines: list[str]
) -> None:
    made(data, tmp_path / "clean")
    (data.source / "c.jsonl").write_text("".join(pocket_lines[10:60]) + pocket_lines[10], encoding="utf-8")
    for workers in (0, 2):
        folder = tmp_path / f"{workers}"
        changed = data.model_copy(update={"duplicates": "exact"})
        manifest = prepare(changed, folder, lambda line: None, workers=workers)
        assert manifest.duplicates_removed == 51
        assert texts_of(folder) == texts_of(tmp_path / "clean")


def test_near_copies_are_left_out_and_others_stay(data: DataSource, tmp_path: Path, pocket_lines: list[str]) -> None:
    records = [json.loads(line) for line in pocket_lines[:20]]
    longer = [record for record in records if len(record["text"].split()) > 300]
    assert len(longer) > 5
    with open(data.source / "c.jsonl", "w") as file:
        for record in longer:
            words = record["text"].split(" ")
            words[len(words) // 2] = "changed"  # five shingles of hundreds
            file.write(json.dumps({"text": " ".join(words).upper()}) + "\n")
    manifest = made(data, tmp_path / "data", duplicates="near")
    assert manifest.duplicates_removed == len(longer)
    assert made(data, tmp_path / "exact", duplicates="exact").duplicates_removed == 0


def test_text_of_tasks_is_left_out_of_training_and_reported_by_task(
    data: DataSource, tmp_path: Path, pocket_lines: list[str]
) -> None:
    made(data, tmp_path / "before")
    [victim, other, *_] = [text for text in texts_of(tmp_path / "before") if len(text.split()) > 200]
    words = victim.split()
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    question = {"query": " ".join(words[50:90]).upper() + "?!", "choices": ["a", "b"], "gold": 1}
    (tasks / "quiz.jsonl").write_text(json.dumps(question) + "\n" + json.dumps({"query": "too short to tell"}) + "\n")
    (tasks / "clean.txt").write_text("no such words " * 20 + " ".join(other.split()[:12]))
    manifest = made(data, tmp_path / "after", decontaminate=tasks)
    assert texts_of(tmp_path / "after") == [text for text in texts_of(tmp_path / "before") if text != victim]
    assert texts_of(tmp_path / "after", "held_out") == texts_of(tmp_path / "before", "held_out")
    assert set(manifest.overlaps) == {"quiz", "clean"}
    assert (manifest.overlaps["clean"].documents, manifest.overlaps["clean"].found) == (0, 0)
    assert manifest.overlaps["quiz"].documents == 1
    assert 20 <= manifest.overlaps["quiz"].found <= manifest.overlaps["quiz"].ngrams
    (tasks / "clean.txt").write_text("another")
    with pytest.raises(InputError, match=r"data\.decontaminate was"):
        made(data, tmp_path / "after", decontaminate=tasks)


@pytest.mark.parametrize("form", ["json", "jsonl.gz", "parquet", "arrow", "csv"])
def test_a_task_is_a_data_set_as_it_was_fetched(
    data: DataSource, tmp_path: Path, pocket_lines: list[str], form: str
) -> None:
    texts = [json.loads(line)["text"] for line in pocket_lines]
    question = {"id": 7, "query": {"of": [" ".join(texts[20].split()[50:90]) + "?"]}, "choices": ["a", "b"]}
    folder = tmp_path / "tasks" / "quiz" / "data"
    folder.mkdir(parents=True)
    if form == "json":
        (folder / "validation.json").write_text(json.dumps([question]))
    elif form == "jsonl.gz":
        (folder / "validation.jsonl.gz").write_bytes(gzip.compress(json.dumps(question).encode()))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist([question]), folder / "validation-00000-of-00001.parquet")
    elif form == "arrow":
        Dataset.from_list([question]).save_to_disk(str(folder))
    else:
        (folder / "validation.csv").write_text(f'id,query\n7,"{question["query"]}"\n')
    (folder.parent / ".cache").mkdir()
    for name in (".gitattributes", "README.md", ".cache/books.json", "dataset_infos.json"):
        (folder.parent / name).write_text("{}")
    tasks = load_tasks(tmp_path / "tasks")
    assert list(tasks.ngrams) == ["quiz"]
    assert [bool(tasks.found_in(text)) for text in texts] == [number == 20 for number in range(150)]
    (tmp_path / "tasks" / "quiz.txt").write_text(" ".join(texts[30].split()[:20]))
    both = load_tasks(tmp_path / "tasks")
    assert list(both.ngrams) == ["quiz"]
    assert [number for number, text in enumerate(texts) if both.found_in(text)] == [20, 30]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("quiz/train.parquet", b"PAR1", "train.parquet: not what its name says"),
        ("quiz.arrow", b"ARROW1", "quiz.arrow: not what its name says"),
        ("quiz.json", b"{", "quiz.json: not what its name says"),
        ("quiz.jsonl.gz", b"\x1f\x8b", "quiz.jsonl.gz: "),
        ("quiz/README.md", b"a quiz", "quiz: holds no text of a task; give .jsonl"),
        ("README.md", b"a quiz", "tasks: holds no task; set data.decontaminate"),
    ],
)
def test_what_is_no_task_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / "tasks" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        load_tasks(tmp_path / "tasks")
    assert "\n" not in str(caught.value)


def test_weights_repeat_and_drop_domains_of_the_training_side_only(data: DataSource, tmp_path: Path) -> None:
    before = made(data, tmp_path / "before").splits
    heavy, light, half, *_ = before.train.domains
    after = made(data, tmp_path / "after", mixture={heavy: 3.0, light: 0.0, half: 0.5}).splits
    assert after.train.domains[heavy].tokens == 3 * before.train.domains[heavy].tokens
    assert light not in after.train.domains
    assert 0 < after.train.domains[half].documents < before.train.domains[half].documents
    assert after.held_out == before.held_out
    copies = Counter(texts_of(tmp_path / "after"))
    assert set(copies.values()) == {1, 3}


def test_copies_of_a_document_do_not_follow_each_other(data: DataSource, tmp_path: Path) -> None:
    domains = made(data, tmp_path / "before").splits.train.domains
    made(data, tmp_path / "after", mixture=dict.fromkeys(domains, 2.0))
    texts = texts_of(tmp_path / "after")
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :] == texts_of(tmp_path / "before")


def test_shuffled_documents_are_the_same_in_another_order(data: DataSource, tmp_path: Path) -> None:
    made(data, tmp_path / "before")
    made(data, tmp_path / "after", shuffle_documents=True)
    before, after = texts_of(tmp_path / "before"), texts_of(tmp_path / "after")
    assert Counter(before) == Counter(after)
    assert sum(one == other for one, other in zip(before, after, strict=True)) < 10
    index, stream = DocumentIndex(tmp_path / "after", "train"), TokenStream(tmp_path / "after", "train")
    _, _, sizes = index.domains()
    assert sizes.sum() == stream.n_tokens
    assert sizes[:3].tolist() != [len(text) for text in before[:3]]


def test_documents_may_follow_each_other_without_a_token_between(data: DataSource, tmp_path: Path) -> None:
    between = made(data, tmp_path / "before").splits.train
    without = made(data, tmp_path / "after", end_of_text=False).splits.train
    assert without.tokens == between.tokens - between.documents
    stream = TokenStream(tmp_path / "after", "train")
    assert not (stream.sample(0, stream.n_tokens - 1) == 50_256).any()
