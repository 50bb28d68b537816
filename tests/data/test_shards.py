"""Shards: samples are slices of one long row of tokens, wherever the files are cut, and a changed byte is found."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from isoflop.config import DataSource
from isoflop.data import TokenStream, load_manifest, prepare, verify
from isoflop.errors import WorkError


@pytest.fixture
def folder(tmp_path: Path, corpus: DataSource) -> Path:
    """The slice in many shards."""
    folder = tmp_path / "data"
    prepare(corpus, folder, lambda line: None, chunk_bytes=20_000)
    return folder


def whole_row(folder: Path) -> np.ndarray:
    """The slow way: every shard's bytes in the manifest's order."""
    shards = load_manifest(folder).splits.train.shards
    return np.concatenate([np.fromfile(folder / shard.file, dtype="<u2") for shard in shards]).astype(np.int64)


@pytest.mark.parametrize("context_length", [1, 64, 1000, 20_000])
def test_samples_are_slices_of_the_whole_row(folder: Path, context_length: int) -> None:
    row = whole_row(folder)
    stream = TokenStream(folder, "train")
    assert stream.n_tokens == len(row)
    n_samples = stream.n_samples(context_length)
    assert n_samples == (len(row) - 1) // context_length > 0
    asked = np.random.default_rng(0).integers(0, n_samples, 400)
    asked[:2] = [0, n_samples - 1]
    batch = stream.batch(asked, context_length)
    assert batch.shape == (400, context_length + 1)
    assert batch.dtype == np.int64
    for index, sample in zip(asked, batch, strict=True):
        start = index * context_length
        assert np.array_equal(sample, row[start : start + context_length + 1])
    assert np.array_equal(stream.sample(3, context_length), stream.batch([3], context_length)[0])


def test_the_test_above_crosses_shards(folder: Path) -> None:
    assert len(load_manifest(folder).splits.train.shards) > 5


def test_cuts_between_shards_change_nothing(tmp_path: Path, corpus: DataSource, folder: Path) -> None:
    prepare(corpus, tmp_path / "one", lambda line: None)
    one, many = TokenStream(tmp_path / "one", "train"), TokenStream(folder, "train")
    every = np.arange(one.n_samples(64))
    assert np.array_equal(one.batch(every, 64), many.batch(every, 64))


def test_samples_that_do_not_exist_are_refused(folder: Path) -> None:
    stream = TokenStream(folder, "held_out")
    for index in (-1, stream.n_samples(64)):
        with pytest.raises(IndexError, match="samples"):
            stream.sample(index, 64)
    assert stream.batch([], 64).shape == (0, 65)


def test_a_changed_byte_is_found_and_named(folder: Path) -> None:
    assert verify(folder) == load_manifest(folder)
    for name in ("train-00002.bin", "held_out-00000.bin", "tokenizer.json"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(WorkError, match=rf"{name}: changed since it was written"):
            verify(folder)
        if name != "tokenizer.json":
            stream = TokenStream(folder, "train" if name.startswith("train") else "held_out")
            with pytest.raises(WorkError, match=rf"{name}: changed since it was written"):
                stream.batch(range(stream.n_samples(64)), 64)
        content[len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
    verify(folder)


def test_a_missing_or_cut_shard_is_named_before_it_is_read(folder: Path) -> None:
    path = folder / "train-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(WorkError, match=rf"train-00001\.bin: has {len(content) - 2} bytes instead of {len(content)}"):
        TokenStream(folder, "train")
    path.unlink()
    with pytest.raises(WorkError, match=r"train-00001\.bin: missing"):
        TokenStream(folder, "train")


def test_the_order_is_the_manifests_whatever_lies_in_the_folder(folder: Path) -> None:
    wanted = whole_row(folder)
    (folder / "train-00099.bin").write_bytes(bytes(64))
    for path in sorted(folder.glob("train-*"), reverse=True):
        os.utime(path, (1, 1))
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)  # the folder lists them in another order now
    stream = TokenStream(folder, "train")
    found = np.concatenate([stream.sample(i, 64)[:-1] for i in range(stream.n_samples(64))])
    assert np.array_equal(found, wanted[: len(found)])
    assert stream.n_tokens == len(wanted)


def test_shards_under_each_others_names_are_found_and_named(folder: Path) -> None:
    one, other = folder / "train-00001.bin", folder / "train-00002.bin"
    other.rename(folder / "between")
    one.rename(other)
    (folder / "between").rename(one)
    with pytest.raises(WorkError, match=r"train-0000[12]\.bin: (changed since|has \d+ bytes instead of)"):
        verify(folder)


def test_a_manifest_that_cannot_be_used_says_why(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    shards = document["splits"]["train"]["shards"]
    outside = {**document, "splits": {**document["splits"]}}
    outside["splits"]["train"] = {
        **document["splits"]["train"],
        "shards": [{**shards[0], "list_file": "../train-00000.documents.npy"}],
    }
    strangers = []
    for name in ("../x.bin", "source/../x.bin", "source//x.bin", "/x.bin"):
        stranger = {**document, "splits": {**document["splits"]}}
        stranger["splits"]["train"] = {**document["splits"]["train"], "shards": [{**shards[0], "file": name}]}
        strangers.append((json.dumps(stranger), "damaged"))
    for content, says in [
        (path.read_text()[:-20], "damaged"),
        ("[]", "damaged"),
        (json.dumps({**document, "format_version": 1}), "format version 1, but this isoflop reads 2"),
        (json.dumps({**document, "more": 1}), "damaged"),
        (json.dumps(outside), "damaged"),
        *strangers,
    ]:
        path.write_text(content)
        with pytest.raises(WorkError, match=says):
            load_manifest(folder)
    path.unlink()
    with pytest.raises(WorkError, match="missing; run isoflop data"):
        TokenStream(folder, "train")
