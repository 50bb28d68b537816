"""Hashes: a file that nobody touched is not read twice, and whatever touches it is found."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import DataSource
from isoflop.data import TokenStream, prepare, verify
from isoflop.data.hashes import Hashes
from isoflop.durable import sha256_of_file
from isoflop.errors import InputError, WorkError


@pytest.fixture
def n_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cache of the test's own that keeps hashes of any file; the files that were read."""
    from isoflop.data import hashes

    read: list[Path] = []
    really = hashes._hashed

    def hashed(path: Path, *which: Any) -> str:
        read.append(path)
        return really(path, *which)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("isoflop.data.hashes._LEAST_BYTES", 1)
    monkeypatch.setattr("isoflop.data.hashes._SETTLED_SECONDS", 0.0)
    monkeypatch.setattr("isoflop.data.hashes._hashed", hashed)
    return read


def settle() -> None:
    """Until the file system's clock has ticked."""
    time.sleep(0.03)


def changed(path: Path) -> None:
    """Another byte in the middle, of the same size and with the same time of writing: what a careful forger does."""
    state = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(state.st_size // 2)
        byte = file.read(1)[0]
        file.seek(state.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == state.st_mtime_ns


def test_a_second_start_reads_nothing_and_one_that_asks_for_it_all(
    tmp_path: Path, corpus: DataSource, n_read: list[Path]
) -> None:
    prepare(corpus, tmp_path / "data", lambda line: None, chunk_bytes=40_000)
    settle()
    verify(tmp_path / "data")
    prepare(corpus, tmp_path / "data", lambda line: None, chunk_bytes=40_000)
    n_read.clear()
    prepare(corpus, tmp_path / "data", lambda line: None, chunk_bytes=40_000)
    manifest = verify(tmp_path / "data")
    stream = TokenStream(tmp_path / "data", "train")
    stream.batch(range(stream.n_samples(64)), 64)
    assert n_read == []
    prepare(corpus, tmp_path / "data", lambda line: None, chunk_bytes=40_000, anew=True)
    verify(tmp_path / "data", anew=True)
    shards = [*manifest.splits.train.shards, *manifest.splits.held_out.shards]
    assert len(n_read) == len(set(n_read)) == 1 + 2 * len(shards) + 1  # the corpus, shards and lists, the tokenizer


def test_a_changed_byte_is_found_at_the_next_start_though_size_and_time_are_the_same(
    tmp_path: Path, corpus: DataSource, n_read: list[Path]
) -> None:
    folder = tmp_path / "data"
    prepare(corpus, folder, lambda line: None)
    settle()
    prepare(corpus, folder, lambda line: None)
    verify(folder)
    for name in ("train-00000.bin", "train-00000.documents.npy", "tokenizer.json"):
        whole = (folder / name).read_bytes()
        changed(folder / name)
        with pytest.raises(WorkError, match=rf"{name}: changed since it was written"):
            verify(folder)
        if name.endswith(".bin"):
            stream = TokenStream(folder, "train")
            with pytest.raises(WorkError, match=rf"{name}: changed since it was written"):
                stream.batch([0], 64)
        (folder / name).write_bytes(whole)
    verify(folder)
    assert isinstance(corpus.source, Path)
    changed(corpus.source)
    with pytest.raises(InputError, match=r"source file slice\.jsonl has changed"):
        prepare(corpus, folder, lambda line: None)


def test_a_file_put_in_the_place_of_another_is_read(tmp_path: Path, n_read: list[Path]) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    settle()
    hashes = Hashes(tmp_path)
    assert hashes.of(path) == sha256_of_file(path)
    other.write_bytes(b"two")
    os.utime(other, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    os.replace(other, path)
    assert hashes.of(path) == sha256_of_file(path)
    assert len(n_read) == 2


def test_parts_of_a_file_are_told_apart(tmp_path: Path, n_read: list[Path]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"onetwo")
    settle()
    hashes = Hashes(tmp_path)
    assert len({hashes.of(path), hashes.of(path, 0, 3), hashes.of(path, 3, 3), hashes.of(path, 0, 3)}) == 3
    assert len(n_read) == 3


def test_a_file_just_written_is_read_again(tmp_path: Path, n_read: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of its file system's clock it could be written once more and look the same."""
    monkeypatch.setattr("isoflop.data.hashes._SETTLED_SECONDS", 60.0)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    settle()
    hashes = Hashes(tmp_path)
    assert hashes.of(path) == hashes.of(path)
    assert len(n_read) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": [1, 2]}', json.dumps({"a": [1, 2, 3, 4, "x"]})])
def test_a_damaged_cache_costs_a_reading_and_no_more(tmp_path: Path, n_read: list[Path], content: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    settle()
    first = Hashes(tmp_path)
    first.of(path)
    first.keep()
    [kept] = (tmp_path / "cache" / "isoflop" / "hashes").iterdir()
    assert Hashes(tmp_path).of(path) == sha256_of_file(path)
    assert len(n_read) == 1
    kept.write_text(content)
    assert Hashes(tmp_path).of(path) == sha256_of_file(path)
    assert len(n_read) == 2


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, n_read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    path = tmp_path / "a"
    path.write_bytes(b"one")
    settle()
    hashes = Hashes(tmp_path)
    assert hashes.of(path) == sha256_of_file(path)
    hashes.keep()
