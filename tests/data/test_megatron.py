"""Megatron's .bin and .idx: trained on where they lie, with documents, bytes and every fault found."""

import itertools
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from isoflop.config import BpeTokenizer, DataSource, FileTokenizer, Gpt2Tokenizer
from isoflop.data import DocumentIndex, TokenStream, prepare, verify
from isoflop.data.encoding import Encoder
from isoflop.data.tokenizer import make_tokenizer, tokenizer_json
from isoflop.errors import InputError, WorkError

GPT2 = Encoder("gpt2", tokenizer_json(make_tokenizer(Gpt2Tokenizer(kind="gpt2"), [])))


def write(stem: Path, documents: list[list[np.ndarray]], code: int = 8) -> None:
    """Byte for byte what megatron-core 0.16.1's IndexedDatasetBuilder writes; a document is one sequence or several."""
    dtype = {8: "<u2", 4: "<i4"}[code]
    sequences = [sequence for document in documents for sequence in document]
    sizes = np.array([len(sequence) for sequence in sequences], dtype="<i4")
    places = (np.cumsum(sizes, dtype="<i8") - sizes) * np.dtype(dtype).itemsize
    bounds = np.cumsum([0, *(len(document) for document in documents)], dtype="<i8")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sizes), len(bounds))
    stem.with_suffix(".bin").write_bytes(b"".join(sequence.astype(dtype).tobytes() for sequence in sequences))
    stem.with_suffix(".idx").write_bytes(head + sizes.tobytes() + places.astype("<i8").tobytes() + bounds.tobytes())


def tokens_of(lines: list[str]) -> list[list[np.ndarray]]:
    texts = [json.loads(line)["text"] for line in lines]
    return [[np.append(GPT2.encode(text), 50_256)] for text in texts]


@pytest.fixture
def pile(tmp_path: Path, pocket_lines: list[str]) -> DataSource:
    """The slice of the pocket corpus as Megatron data in GPT-2 tokens."""
    folder = tmp_path / "pile"
    folder.mkdir()
    write(folder / "part_text_document", tokens_of(pocket_lines))
    tokenizer = Gpt2Tokenizer(kind="gpt2")
    return DataSource(source=folder, tokenizer=tokenizer, context_length=64, held_out_fraction=0.1)


@pytest.mark.parametrize("code", [8, 4])
def test_tokens_are_read_where_they_lie(pile: DataSource, tmp_path: Path, pocket_lines: list[str], code: int) -> None:
    documents = tokens_of(pocket_lines)
    write(pile.source / "part_text_document", documents, code)
    folder = tmp_path / "data"
    manifest = prepare(pile, folder, lambda line: None)
    assert not list(folder.rglob("*.bin"))
    assert (manifest.splits.train.documents, manifest.splits.held_out.documents) == (135, 15)
    assert manifest.documents_read == 150
    row = np.concatenate([sequence for [sequence] in documents[:135]]).astype(np.int64)
    stream = TokenStream(folder, "train")
    every = stream.batch(range(stream.n_samples(64)), 64)
    assert np.array_equal(every[:, :64].reshape(-1), row[: 64 * len(every)])
    held_out = TokenStream(folder, "held_out")
    assert held_out.sample(0, 8).tolist() == documents[135][0][:9].tolist()


def test_the_manifest_names_no_place_outside_and_the_corpus_may_move(pile: DataSource, tmp_path: Path) -> None:
    assert isinstance(pile.source, Path)
    folder = tmp_path / "data"
    (pile.source / "train").mkdir()
    for path in list(pile.source.glob("part*")):
        os.rename(path, pile.source / "train" / path.name)
    manifest = prepare(pile, folder, lambda line: None)
    assert {shard.file for shard in manifest.splits.train.shards} == {"source/train/part_text_document.bin"}
    for name in ("manifest.json", "croissant.json"):
        assert str(tmp_path) not in (folder / name).read_text()
    sample = TokenStream(folder, "train").sample(0, 64)
    os.rename(pile.source, tmp_path / "elsewhere")
    with pytest.raises(WorkError, match=r"source/train/part_text_document\.bin: missing"):
        TokenStream(folder, "train")
    assert prepare(pile.model_copy(update={"source": tmp_path / "elsewhere"}), folder, lambda line: None) == manifest
    assert np.array_equal(TokenStream(folder, "train").sample(0, 64), sample)


def test_the_bytes_of_the_text_are_known_without_decoding_it(
    pile: DataSource, tmp_path: Path, pocket_lines: list[str]
) -> None:
    manifest = prepare(pile, tmp_path / "data", lambda line: None)
    sizes = [len(json.loads(line)["text"].encode()) for line in pocket_lines]
    assert manifest.splits.train.bytes == sum(sizes[:135])
    assert manifest.splits.held_out.bytes == sum(sizes[135:])


def test_documents_of_several_sequences_and_shards_of_any_size(
    pile: DataSource, tmp_path: Path, pocket_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoflop.data.megatron._SHARD_TOKENS", 5000)
    documents = [np.array_split(sequence, 3) for [sequence] in tokens_of(pocket_lines)]
    write(pile.source / "part_text_document", documents)
    manifest = prepare(pile, tmp_path / "data", lambda line: None)
    shards = manifest.splits.train.shards
    assert len(shards) > 5
    assert sum(shard.documents for shard in shards) == 135
    index, stream = DocumentIndex(tmp_path / "data", "train"), TokenStream(tmp_path / "data", "train")
    raw = (pile.source / "part_text_document.bin").read_bytes()
    for number in (0, 7, stream.n_samples(64) - 1):
        said = [
            np.frombuffer(raw, "<u2", passage.tokens, passage.offset + 2 * passage.document_token)
            for passage in index.passages([number], 64)
        ]
        assert np.array_equal(np.concatenate(said), stream.sample(number, 64))


def test_an_index_that_ends_no_document_tells_of_sequences(
    pile: DataSource, tmp_path: Path, pocket_lines: list[str]
) -> None:
    path = pile.source / "part_text_document.idx"
    content = bytearray(path.read_bytes())
    content[26:34] = struct.pack("<Q", 1)
    path.write_bytes(content[: -8 * len(pocket_lines)])
    manifest = prepare(pile, tmp_path / "data", lambda line: None)
    assert (manifest.splits.train.documents, manifest.splits.held_out.documents) == (135, 15)


def cut(stem: Path, sizes: list[int]) -> None:
    """Cuts a .bin as Pythia's are published: pieces of these sizes and of what is left."""
    content = stem.with_suffix(".bin").read_bytes()
    ends = [0, *np.cumsum(sizes).tolist(), len(content)]
    for number, (first, end) in enumerate(itertools.pairwise(ends)):
        (stem.parent / f"{stem.name}-{number:05d}-of-{len(sizes):05d}.bin").write_bytes(content[first:end])
    stem.with_suffix(".bin").unlink()


def test_pieces_cut_anywhere_are_read_as_the_file_they_were(
    pile: DataSource, tmp_path: Path, pocket_lines: list[str]
) -> None:
    shutil.copytree(pile.source, tmp_path / "uncut")
    whole = prepare(pile.model_copy(update={"source": tmp_path / "uncut"}), tmp_path / "whole", lambda line: None)
    stem = pile.source / "part_text_document"
    raw = stem.with_suffix(".bin").read_bytes()
    longest = int(np.argmax([len(sequence) for [sequence] in tokens_of(pocket_lines)]))
    begins = np.cumsum([0, *(2 * len(sequence) for [sequence] in tokens_of(pocket_lines))]).tolist()
    # Within a document, twice within the longest, and where one begins.
    assert longest > 0
    ends = [20, begins[longest] + 2, begins[longest] + 40, begins[longest + 1]]
    cut(stem, np.diff([0, *ends]).tolist())
    folder = tmp_path / "cut"
    manifest = prepare(pile, folder, lambda line: None)
    assert manifest.documents_read == 150
    for split in ("train", "held_out"):
        mine, theirs = TokenStream(folder, split), TokenStream(tmp_path / "whole", split)
        assert mine.n_tokens == theirs.n_tokens
        samples = range(mine.n_samples(64))
        assert np.array_equal(mine.batch(samples, 64), theirs.batch(samples, 64))
        for key in ("documents", "tokens", "bytes"):
            assert getattr(manifest.split(split), key) == getattr(whole.split(split), key)
    files = {name: (pile.source / name).read_bytes() for name in os.listdir(pile.source)}
    assert b"".join(files[name] for name in sorted(files) if name.endswith(".bin")) == raw
    index, stream = DocumentIndex(folder, "train"), TokenStream(folder, "train")
    for number in range(stream.n_samples(8)):
        said = [
            np.frombuffer(files[passage.source], "<u2", passage.tokens, passage.offset + 2 * passage.document_token)
            for passage in index.passages([number], 8)
        ]
        assert np.array_equal(np.concatenate(said), stream.sample(number, 8))


@pytest.mark.parametrize(
    ("sizes", "lost", "says"),
    [
        ([40, 60, 80], 1, r"-00002-of-00003\.bin: piece 00001 of the same data is not there"),
        ([40, 60, 80], 3, r"\.idx: tells of \d+ bytes .* -00002-of-00003\.bin and the 2 before it have 180 or"),
        ([41, 60, 80], None, r"-00000-of-00003\.bin: ends within a token of 2 bytes"),
    ],
)
def test_pieces_that_do_not_make_a_whole_are_refused(
    pile: DataSource, tmp_path: Path, sizes: list[int], lost: int | None, says: str
) -> None:
    stem = pile.source / "part_text_document"
    cut(stem, sizes)
    if lost is not None:
        os.remove(stem.parent / f"{stem.name}-{lost:05d}-of-{len(sizes):05d}.bin")
    with pytest.raises(InputError, match=says.replace(" -0", ".*-0")):
        prepare(pile, tmp_path / "data", lambda line: None)
    assert not (tmp_path / "data").exists()


def test_a_tokenizer_of_its_own_comes_from_a_file(pile: DataSource, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(GPT2.json, encoding="utf-8")
    padded = pile.model_copy(update={"tokenizer": FileTokenizer(kind="file", path=path, vocab_size=50_304)})
    manifest = prepare(padded, tmp_path / "data", lambda line: None)
    assert (manifest.tokenizer.vocab_size, manifest.tokenizer.end_of_text) == (50_304, 50_256)
    path.write_text(GPT2.json.replace('"fuse_unk":false', '"fuse_unk":true', 1), encoding="utf-8")
    assert path.read_text() != GPT2.json
    with pytest.raises(InputError, match=r"tokenizer\.json is another tokenizer"):
        prepare(padded, tmp_path / "data", lambda line: None)
    short = pile.model_copy(update={"tokenizer": FileTokenizer(kind="file", path=path, vocab_size=50_000)})
    with pytest.raises(InputError, match=r"vocab_size = 50000: .* has token 50256; use 50257 or more"):
        prepare(short, tmp_path / "other", lambda line: None)


def test_a_tokenizer_whose_tokens_do_not_tell_their_bytes_is_refused(pile: DataSource, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE(vocab={"<|endoftext|>": 0, "\u2581the": 1}, merges=[])).save(str(path))
    other = FileTokenizer(kind="file", path=path, vocab_size=50_304)
    with pytest.raises(InputError, match=r"data\.tokenizer: token 1 \('\u2581the'\) is not of a byte-level BPE"):
        prepare(pile.model_copy(update={"tokenizer": other}), tmp_path / "data", lambda line: None)


def test_tokens_that_lie_in_the_corpus_need_it(pile: DataSource, tmp_path: Path) -> None:
    prepare(pile, tmp_path / "data", lambda line: None)
    os.rename(pile.source, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(pile, tmp_path / "data", lambda line: None)


def test_a_token_beyond_the_vocabulary_is_refused_with_its_place(pile: DataSource, tmp_path: Path) -> None:
    path = pile.source / "part_text_document.bin"
    content = bytearray(path.read_bytes())
    content[2000:2002] = (60_000).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"part_text_document\.bin: token 60000 at byte 2000 is not below"):
        prepare(pile, tmp_path / "data", lambda line: None)
    assert not (tmp_path / "data").exists()


def test_a_changed_byte_is_found(pile: DataSource, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    prepare(pile, folder, lambda line: None)
    path = pile.source / "part_text_document.bin"
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkError, match=r"part_text_document\.bin: changed since it was written"):
        verify(folder)
    with pytest.raises(InputError, match=r"source file part_text_document\.bin has changed"):
        prepare(pile, folder, lambda line: None)
    path.write_bytes(content[:-2])
    with pytest.raises(WorkError, match=r"part_text_document\.bin: has"):
        TokenStream(folder, "train")


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        (0, b"X", "is no Megatron index"),
        (9, b"\2", "version 2 with tokens of type 8"),
        (17, b"\6", "version 1 with tokens of type 6"),
        (18, b"\1", "not what"),
        (34, b"\xff\xff", "tells of"),
        (-8, b"\1", "document boundaries do not fit"),
    ],
)
def test_a_damaged_index_is_refused(pile: DataSource, tmp_path: Path, place: int, change: bytes, says: str) -> None:
    path = pile.source / "part_text_document.idx"
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + len(change)] = change
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"part_text_document\.idx: .*{says}"):
        prepare(pile, tmp_path / "data", lambda line: None)


def test_what_only_text_allows_is_refused(pile: DataSource, tmp_path: Path) -> None:
    for change, says in [
        ({"tokenizer": BpeTokenizer(kind="bpe", vocab_size=300)}, "data.tokenizer.kind = 'bpe'"),
        ({"duplicates": "exact"}, "data.duplicates: the data are tokens already"),
        ({"mixture": {"a": 2.0}}, "data.mixture: the data are tokens already"),
    ]:
        with pytest.raises(InputError, match=says):
            prepare(pile.model_copy(update=change), tmp_path / "data", lambda line: None)
    os.rename(pile.source / "part_text_document.idx", pile.source / "other.idx")
    with pytest.raises(InputError, match=r"other\.idx: has no other\.bin beside it"):
        prepare(pile, tmp_path / "data", lambda line: None)
    (pile.source / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"a\.txt: lies among \.bin and \.idx files"):
        prepare(pile, tmp_path / "data", lambda line: None)
