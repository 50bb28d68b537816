"""Corpora at other addresses: an S3-speaking server on loopback, a `datasets` folder, any fsspec store."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
import zstandard
from datasets import Dataset, DatasetDict, load_from_disk
from moto.server import ThreadedMotoServer

from isoflop.config import DataSource, Gpt2Tokenizer
from isoflop.data import Document, prepare, read_documents
from isoflop.data.chunks import ChunkRecord, Journal
from isoflop.data.corpus import corpus_files, source_records
from isoflop.errors import InputError, WorkError


def data_at(source: Path | str, **settings: object) -> DataSource:
    tokenizer = Gpt2Tokenizer(kind="gpt2")
    return DataSource(source=source, tokenizer=tokenizer, context_length=64, held_out_fraction=0.1, **settings)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a real server of S3's protocol, on loopback."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpora")
        yield f"http://{host}:{port}"
    server.stop()


def put(key: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket="corpora", Key=key, Body=content)
    fsspec.filesystem("s3").invalidate_cache()


def test_a_corpus_in_s3_gives_the_bytes_of_the_one_on_disk(s3: str, tmp_path: Path, pocket_lines: list[str]) -> None:
    here = tmp_path / "corpus"
    here.mkdir()
    packed = zstandard.ZstdCompressor().compress("".join(pocket_lines[:100]).encode())
    files = {"a.jsonl.zst": packed, "b.jsonl": "".join(pocket_lines[100:]).encode(), "NOTICE": b"Public domain.\n"}
    for name, content in files.items():
        (here / name).write_bytes(content)
        put(f"slice/{name}", content)
    put("slice/.hidden/x.jsonl", b"broken")
    local = prepare(data_at(here), tmp_path / "local", lambda line: None)
    remote = prepare(data_at("s3://corpora/slice"), tmp_path / "remote", lambda line: None)
    assert remote.splits == local.splits
    assert remote.notice == local.notice == "Public domain.\n"
    for one, other in zip(remote.sources, local.sources, strict=True):
        assert (one.file, one.bytes, one.sha256) == (other.file, other.bytes, other.sha256)
        assert one.version
        assert other.version is None


def test_a_changed_object_is_found_at_start_and_named(s3: str, tmp_path: Path, pocket_lines: list[str]) -> None:
    lines = "".join(pocket_lines).encode()
    put("changing/a.jsonl", lines)
    data = data_at("s3://corpora/changing")
    prepare(data, tmp_path / "data", lambda line: None)
    prepare(data, tmp_path / "data", lambda line: None)
    put("changing/a.jsonl", lines.replace(b"the", b"The", 1))
    with pytest.raises(InputError, match=r"source file a\.jsonl has changed \(was"):
        prepare(data, tmp_path / "data", lambda line: None)


def test_an_unchanged_object_is_not_fetched_again(s3: str) -> None:
    put("once/a.jsonl", b'{"text": "x"}\n')
    files = corpus_files(data_at("s3://corpora/once"))
    known = source_records("s3://corpora/once", files)
    boto3.client("s3").delete_object(Bucket="corpora", Key="once/a.jsonl")
    assert source_records("s3://corpora/once", files, known) == known


def test_a_store_that_stops_to_answer_costs_nothing_that_is_finished(
    s3: str, tmp_path: Path, pocket_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(pocket_lines).encode()
    for key in ("failing/a.jsonl", "failing/b.jsonl"):
        put(key, lines)
    data, folder = data_at("s3://corpora/failing"), tmp_path / "data"
    add = Journal.add

    def add_and_lose(journal: Journal, chunk: ChunkRecord) -> None:
        add(journal, chunk)
        boto3.client("s3").delete_object(Bucket="corpora", Key="failing/b.jsonl")

    monkeypatch.setattr(Journal, "add", add_and_lose)
    with pytest.raises(WorkError, match=r"s3://corpora/failing/b\.jsonl: cannot read"):
        prepare(data, folder, lambda line: None, chunk_bytes=len(lines) // 8)
    monkeypatch.undo()
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(data_at("s3://corpora/nowhere"), folder, lambda line: None, chunk_bytes=len(lines) // 8)
    put("failing/b.jsonl", lines)
    heard: list[str] = []
    prepare(data, folder, heard.append, chunk_bytes=len(lines) // 8)
    assert any(line.startswith("data: going on after") for line in heard)


def test_what_a_store_says_is_one_line(s3: str) -> None:
    for address, says in [
        ("s3://corpora/nowhere", "s3://corpora/nowhere: no such file or folder; set data.source"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x: "),
        ("gopher://x/y", "gopher://x/y: Protocol not known: gopher; use an address that fsspec knows"),
    ]:
        with pytest.raises(InputError) as caught:
            corpus_files(data_at(address))
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)


def test_any_other_store_of_fsspec_will_do() -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/corpus/b/1.jsonl", b'{"text": "one"}\n')
    store.pipe("/corpus/a.txt", b"two")
    assert list(read_documents(data_at("memory://corpus"))) == [
        Document("two", "a.txt", "", 0),
        Document("one", "b/1.jsonl", "b", 0),
    ]


def test_folders_that_datasets_wrote_are_read_as_they_are(tmp_path: Path, pocket_lines: list[str]) -> None:
    rows = [json.loads(line) for line in pocket_lines]
    expected = [(row["text"], row["meta"]["pile_set_name"]) for row in rows]
    Dataset.from_list(rows).save_to_disk(tmp_path / "one", num_shards=3)
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(tmp_path / "dict")
    for folder in ("one", "dict"):
        read = list(read_documents(data_at(tmp_path / folder)))
        assert [(document.text, document.domain) for document in read] == expected


def test_what_others_computed_of_a_datasets_folder_is_no_part_of_it(tmp_path: Path, pocket_lines: list[str]) -> None:
    rows = [json.loads(line) for line in pocket_lines]
    Dataset.from_list(rows).save_to_disk(tmp_path / "hub" / "set")
    load_from_disk(tmp_path / "hub" / "set").map(lambda row: {"text": row["text"].upper()}, batch_size=50)
    assert list((tmp_path / "hub" / "set").glob("cache-*.arrow"))
    for name in ("README.md", ".gitattributes", "dataset_infos.json"):  # as a copy of a repository of the hub
        (tmp_path / "hub" / name).write_text("{}")
    for folder in (tmp_path / "hub", tmp_path / "hub" / "set"):
        assert [document.text for document in read_documents(data_at(folder))] == [row["text"] for row in rows]
    (tmp_path / "own").mkdir()
    shutil.copy(next((tmp_path / "hub" / "set").glob("data-*.arrow")), tmp_path / "own" / "cache-of-mine.arrow")
    assert len(list(read_documents(data_at(tmp_path / "own")))) == len(rows)
