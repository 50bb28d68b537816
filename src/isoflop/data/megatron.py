"""Megatron's pre-tokenised .bin and .idx, as Pythia's Pile is published: read where they lie, nothing is copied.

A .bin is the tokens of all sequences in a row; as published it lies cut into NAME-00000-of-00082.bin and so on (the
last number is that of the last piece), wherever the cuts fall. The .idx: 9 bytes `MMIDIDX\\0\\0`, version 1 (u64), a
code for the tokens' type (u8), the number of sequences and of document boundaries (u64 each), then each sequence's
length (i32) and place in bytes (i64), and the sequences at which documents begin (i64, one more than documents).
Little-endian all.
"""

import hashlib
import itertools
import os
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.batches import LISTED
from isoflop.data.chunks import write_list
from isoflop.data.corpus import CorpusFile, reading
from isoflop.data.manifest import SOURCE_LINK, SPLITS, Counts, DType, Shard, Split, SplitName
from isoflop.data.readers import folder_of
from isoflop.data.refusals import refuse_text_settings
from isoflop.data.shards import summed
from isoflop.data.tokenizer import token_bytes
from isoflop.durable import cannot_write, part_of
from isoflop.errors import InputError

# Tokens that are hashed and checked together: 128 MiB as uint16.
_SHARD_TOKENS = 2**26
# Tokens whose bytes are counted at once, by each core.
_BLOCK_TOKENS = 2**20

_MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<QBQQ")
_DTYPES: dict[int, DType] = {8: "uint16", 4: "uint32"}  # 4 is int32, whose non-negative numbers are the same bytes
_PIECE = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.bin", re.IGNORECASE)


@dataclass(frozen=True)
class Indexed:
    """What one .idx tells of: the .bin files that follow each other, by number in the corpus; documents in tokens."""

    files: dict[int, CorpusFile]
    dtype: DType
    documents: npt.NDArray[np.int64]


def read_indices(data: DataSource, files: Sequence[CorpusFile]) -> list[Indexed]:
    """The .bin files with the documents that their .idx files tell of.

    Raises:
        InputError: a file has no partner or is damaged, or the family asks for what only text allows.
    """
    refuse_text_settings(data)
    for file in files:
        if file.version is not None:
            raise InputError(f"{file.address}: tokens are read where they lie; copy .bin and .idx to this machine")
    of_stem = _bins(files)
    found = []
    for file in files:
        if file.name.lower().endswith(".idx"):
            mine = of_stem.pop(file.name[:-4], None)
            if mine is None:
                raise InputError(f"{file.address}: has no {file.name[:-4]}.bin beside it; both make a data set")
            found.append(_read_index(mine, file))
    for stem, left in of_stem.items():
        first = next(iter(left.values()))
        raise InputError(f"{first.address}: has no {stem}.idx beside it; both make a data set")
    if len({one.dtype for one in found}) > 1:
        raise InputError(f"{data.source}: holds tokens of two and of four bytes; keep them in folders apart")
    return found


def split_tokens(
    data: DataSource, folder: Path, tokenizer: Tokenizer, indexed: Sequence[Indexed]
) -> dict[SplitName, Split]:
    """The splits: of each index's documents the last are kept for the test, those before them are held out.

    A family's samples come in random order, and these data are published shuffled by document: the last are as good as
    any, and what is trained on stays one piece.

    Raises:
        InputError: a token is not of the tokenizer.
        WorkError: the disk is full or cannot be written.
    """
    lengths = token_bytes(tokenizer)
    by_token = np.zeros(data.tokenizer.vocab_size, dtype=np.uint16)
    by_token[: len(lengths)] = lengths
    shards: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
    domains: dict[SplitName, dict[str, list[Counts]]] = {split: {} for split in SPLITS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = [piece for one in indexed for piece in _pieces(one, data)]
        measured = pool.map(lambda piece: _measured(piece, by_token), pieces)
        for piece, (sha256, n_bytes) in zip(pieces, measured, strict=True):
            stem = f"{piece.split}-{len(shards[piece.split]):05d}.bin"
            domain = folder_of(piece.file.name)
            list_file, list_sha256 = write_list(folder, stem, _listed(piece, n_bytes))
            shard = Shard(
                documents=len(n_bytes) - piece.goes_on,
                tokens=int(piece.documents.sum()),
                bytes=int(n_bytes.sum()),
                file=f"{SOURCE_LINK}/{piece.file.name}",
                sha256=sha256,
                first_byte=piece.first_token * _width(piece.dtype),
                list_file=list_file,
                list_sha256=list_sha256,
                domains=(domain,),
            )
            shards[piece.split].append(shard)
            domains[piece.split].setdefault(domain, []).append(summed([shard]))
    return {
        split: Split(
            **dict(summed(shards[split])),
            shards=tuple(shards[split]),
            domains={name: summed(counts) for name, counts in sorted(domains[split].items())},
        )
        for split in SPLITS
    }


def link_source(folder: Path, source: Path) -> None:
    """Makes `folder`/source lead to the corpus, also when it has moved: the manifest names no place outside.

    Raises:
        WorkError: the folder cannot be written.
    """
    link, target = folder / SOURCE_LINK, os.path.abspath(source)
    if link.is_symlink() and os.readlink(link) == target:
        return
    part = part_of(link)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        os.symlink(target, part)
        os.replace(part, link)
    except OSError as error:
        raise cannot_write(link, error) from error


@dataclass(frozen=True)
class _Piece:
    """Documents in a row of one file, for one split: what becomes a shard. A cut between files may leave the end of a
    document to the next one, whose first document it then is: that one `goes_on`."""

    file: CorpusFile
    number: int
    dtype: DType
    split: SplitName
    first_token: int
    documents: npt.NDArray[np.int64]
    goes_on: bool


def _bins(files: Sequence[CorpusFile]) -> dict[str, dict[int, CorpusFile]]:
    """The .bin files by the name of their .idx without its end, in order.

    Raises:
        InputError: one of several pieces is missing.
    """
    found: dict[str, dict[int, CorpusFile]] = {}
    for number, file in enumerate(files):  # sorted by name: pieces are in order
        if not file.name.lower().endswith(".bin"):
            continue
        cut = _PIECE.fullmatch(file.name)
        stem = cut[1] if cut else file.name[:-4]
        mine = found.setdefault(stem, {})
        # Pythia's names count from 0 to the last number; others say how many there are.
        if cut and int(cut[2]) != len(mine):
            raise InputError(f"{file.address}: piece {len(mine):05d} of the same data is not there; fetch it")
        if mine and not cut:
            raise InputError(f"{file.address}: lies beside pieces of the same name; keep one of the two")
        mine[number] = file
    return found


def _read_index(files: dict[int, CorpusFile], index: CorpusFile) -> Indexed:
    head = len(_MAGIC) + _HEAD.size
    with reading(index.address):  # the Pile's index has gigabytes: it is mapped, not read
        content = np.memmap(index.address, np.uint8, "r") if index.bytes else np.empty(0, np.uint8)
    if len(content) < head or content[: len(_MAGIC)].tobytes() != _MAGIC:
        raise InputError(f"{index.address}: is no Megatron index (it does not begin with MMIDIDX); fetch it again")
    version, code, n_sequences, n_boundaries = _HEAD.unpack_from(content.data, len(_MAGIC))
    if version != 1 or code not in _DTYPES:
        raise InputError(f"{index.address}: version {version} with tokens of type {code}; only 1 with 4 or 8 is read")
    if len(content) != head + 12 * n_sequences + 8 * n_boundaries:
        raise InputError(
            f"{index.address}: has {len(content)} bytes, not what {n_sequences} sequences and {n_boundaries} "
            "boundaries take; fetch it again"
        )
    sizes = np.frombuffer(content, "<i4", n_sequences, head).astype(np.int64)
    places = np.frombuffer(content, "<i8", n_sequences, head + 4 * n_sequences)
    bounds = np.frombuffer(content, "<i8", n_boundaries, head + 12 * n_sequences)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    width = _width(_DTYPES[code])
    n_bytes = sum(file.bytes for file in files.values())
    if (sizes < 0).any() or not np.array_equal(places, ends[:-1] * width) or n_bytes != ends[-1] * width:
        *others, last = (file.address for file in files.values())
        raise InputError(
            f"{index.address}: tells of {ends[-1] * width} bytes one after the other, but {last} "
            f"{f'and the {len(others)} before it have' if others else 'has'} {n_bytes} or lies otherwise; "
            "fetch all of them again"
        )
    for file in files.values():
        if file.bytes % width:
            raise InputError(f"{file.address}: ends within a token of {width} bytes; fetch it again")
    if bounds.tolist() == [0]:  # whoever wrote it ended no document: each sequence is one
        bounds = np.arange(n_sequences + 1)
    if n_boundaries == 0 or bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        raise InputError(f"{index.address}: its document boundaries do not fit its sequences; fetch it again")
    return Indexed(files, _DTYPES[code], np.diff(ends[bounds]))


def _pieces(one: Indexed, data: DataSource) -> Iterator[_Piece]:
    n_documents = len(one.documents)
    n_test = round(n_documents * data.test_fraction)
    n_held_out = max(1, round(n_documents * data.held_out_fraction))
    n_train = max(0, n_documents - n_held_out - n_test)
    cuts = [0, n_train, min(n_documents, n_train + n_held_out), n_documents]
    ends = np.concatenate([[0], np.cumsum(one.documents)])
    width = _width(one.dtype)
    file_ends = np.cumsum([0, *(file.bytes // width for file in one.files.values())])
    for split, first, end in zip(SPLITS, cuts[:-1], cuts[1:], strict=True):
        for (number, file), (low, high) in zip(one.files.items(), itertools.pairwise(file_ends), strict=True):
            # Documents of which this file holds a part; `first` may have begun in the one before.
            until = end if high == file_ends[-1] else min(end, max(first, int(np.searchsorted(ends, high))))
            lengths = np.diff(np.clip(ends[first : until + 1], low, high))
            begin = max(int(ends[first]), int(low))
            goes_on = bool(ends[first] < low)
            for some in _cut(lengths, _SHARD_TOKENS):
                if some.sum():
                    yield _Piece(file, number, one.dtype, split, begin - int(low), some, goes_on)
                begin, goes_on = begin + int(some.sum()), False
            first = until - int(until > first and ends[until] > high)


def _cut(lengths: npt.NDArray[np.int64], n_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Documents in a row that have so many tokens together."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    first = 0
    while first < len(lengths):
        until = min(len(lengths), max(first + 1, int(np.searchsorted(ends, ends[first] + n_tokens))))
        yield lengths[first:until]
        first = until


def _measured(piece: _Piece, by_token: npt.NDArray[np.uint16]) -> tuple[str, npt.NDArray[np.int64]]:
    """SHA-256 of the piece's tokens, and the bytes of text in each of its documents."""
    width = _width(piece.dtype)
    tokens = np.memmap(
        piece.file.address,
        dtype=f"<u{width}",
        mode="r",
        offset=piece.first_token * width,
        shape=(int(piece.documents.sum()),),
    )
    digest = hashlib.sha256()
    n_bytes = []
    place = 0
    for documents in _cut(piece.documents, _BLOCK_TOKENS):
        block = tokens[place : place + int(documents.sum())]
        if len(block) and int(block.max()) >= len(by_token):
            at = int(np.argmax(block >= len(by_token)))
            raise InputError(
                f"{piece.file.address}: token {block[at]} at byte {(piece.first_token + place + at) * width} is not "
                f"below data.tokenizer.vocab_size = {len(by_token)}; give the tokenizer that made the data"
            )
        digest.update(block.data)
        of_documents = np.zeros(len(documents), dtype=np.int64)
        filled = np.flatnonzero(documents)
        starts = (np.cumsum(documents) - documents)[filled]
        of_documents[filled] = np.add.reduceat(by_token[block], starts, dtype=np.int64)
        n_bytes.append(of_documents)
        place += len(block)
    return digest.hexdigest(), np.concatenate(n_bytes)


def _listed(piece: _Piece, n_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    listed = np.zeros(len(n_bytes), dtype=LISTED)
    listed["tokens"], listed["bytes"], listed["file"] = piece.documents, n_bytes, piece.number
    listed["offset"] = (piece.first_token + np.cumsum(piece.documents) - piece.documents) * _width(piece.dtype)
    return listed


def _width(dtype: DType) -> int:
    return 2 if dtype == "uint16" else 4
