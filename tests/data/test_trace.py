"""Any sample leads back to its documents: file, offset and domain, and from there to the same tokens."""

import json
from pathlib import Path

import mlcroissant
import numpy as np
import pytest

from isoflop.config import DataSource
from isoflop.data import DocumentIndex, TokenStream, load_manifest, load_tokenizer, prepare
from isoflop.errors import WorkError


@pytest.fixture
def folder(tmp_path: Path, corpus: DataSource) -> Path:
    """The slice in several shards, with one line that cannot be read."""
    with open(corpus.source, "a") as file:
        file.write("broken\n")
    prepare(
        corpus.model_copy(update={"faults_allowed": 0.01}), tmp_path / "data", lambda line: None, chunk_bytes=90_000
    )
    return tmp_path / "data"


@pytest.mark.parametrize("context_length", [7, 64, 5000])
def test_the_documents_named_hold_the_tokens_of_the_sample(
    folder: Path, corpus: DataSource, context_length: int
) -> None:
    stream, index = TokenStream(folder, "train"), DocumentIndex(folder, "train")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    content = corpus.source.read_bytes()
    assert len(load_manifest(folder).splits.train.shards) > 3
    for number in np.linspace(0, stream.n_samples(context_length) - 1, 9).astype(int).tolist():
        tokens: list[int] = []
        for passage in index.passages([number], context_length):
            record = json.loads(content[passage.offset :].split(b"\n", 1)[0])
            assert passage.source == "slice.jsonl"
            assert passage.domain == record["meta"]["pile_set_name"]
            assert passage.first == len(tokens)
            whole = [*tokenizer.encode(record["text"]).ids, tokenizer.token_to_id("<|endoftext|>")]
            assert passage.document_tokens == len(whole)
            tokens += whole[passage.document_token : passage.document_token + passage.tokens]
        assert tokens == stream.sample(number, context_length).tolist()


def test_domains_of_all_documents_add_up_to_the_manifest(folder: Path) -> None:
    names, numbers, sizes = DocumentIndex(folder, "held_out").domains()
    counted = {name: int(sizes[numbers == number].sum()) for number, name in enumerate(names)}
    said = load_manifest(folder).splits.held_out.domains
    assert {name: n for name, n in counted.items() if n} == {name: counts.tokens for name, counts in said.items()}


def test_a_changed_list_is_named(folder: Path) -> None:
    path = folder / "train-00000.documents.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkError, match=r"train-00000\.documents\.npy: changed since it was written"):
        DocumentIndex(folder, "train").passages([0], 64)


def test_faults_are_listed_with_file_and_offset(folder: Path, corpus: DataSource) -> None:
    [fault] = load_manifest(folder).faults
    assert fault.file == "slice.jsonl"
    assert corpus.source.read_bytes()[fault.offset :] == b"broken\n"
    assert fault.reason.startswith("line 151: not valid JSON")


def test_croissant_is_valid_and_tells_of_every_file(folder: Path) -> None:
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    manifest = load_manifest(folder)
    hashes = {file.name: file.sha256 for file in dataset.metadata.distribution}
    for source in manifest.sources:
        assert hashes[f"source/{source.file}"] == source.sha256
    for shard in manifest.splits.train.shards + manifest.splits.held_out.shards:
        assert (hashes[shard.file], hashes[shard.list_file]) == (shard.sha256, shard.list_sha256)
    assert dataset.metadata.license == ["public domain"]
    rows = list(dataset.records("domains"))
    assert sum(row["domains/tokens"] for row in rows) == sum(
        split.tokens for split in (manifest.splits.train, manifest.splits.held_out)
    )
