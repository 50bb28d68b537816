"""Megatron's pre-tokenised .bin and .idx, as Pythia's Pile is published: read where they lie, nothing is copied.

A .bin is the tokens of all sequences in a row. Its .idx: 9 bytes `MMIDIDX\\0\\0`, version 1 (u64), a code for the
tokens' type (u8), the number of sequences and of document boundaries (u64 each), then each sequence's length (i32) and
place in bytes (i64), and the sequences at which documents begin (i64, one more than documents). Little-endian all.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
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
from isoflop.data.shards import summed
from isoflop.data.tokenizer import token_bytes
from isoflop.durable import cannot_write, part_of
from isoflop.errors import FamilyError, InputError

# Tokens that are hashed and checked together: 128 MiB as uint16.
_SHARD_TOKENS = 2**26

_MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<QBQQ")
_DTYPES: dict[int, DType] = {8: "uint16", 4: "uint32"}  # 4 is int32, whose non-negative numbers are the same bytes


@dataclass(frozen=True)
class Indexed:
    """A .bin with the lengths of its documents, in tokens."""

    file: CorpusFile
    number: int
    dtype: DType
    documents: npt.NDArray[np.int64]


def is_megatron(files: Sequence[CorpusFile]) -> bool:
    """Whether the corpus is pre-tokenised.

    Raises:
        InputError: it is in part.
    """
    tokenised = [file.name.lower().endswith((".bin", ".idx")) for file in files]
    if any(tokenised) and not all(tokenised):
        text = files[tokenised.index(False)]
        raise InputError(f"{text.address}: lies among .bin and .idx files; keep text and tokens in folders apart")
    return any(tokenised)


def read_indices(data: DataSource, files: Sequence[CorpusFile]) -> list[Indexed]:
    """The .bin files with the documents that their .idx files tell of.

    Raises:
        InputError: a file has no partner or is damaged, or the family asks for what only text allows.
    """
    refuse_text_settings(data)
    by_name = {file.name: file for file in files}
    found = []
    for number, file in enumerate(files):
        stem, suffix = os.path.splitext(file.name)
        partner = stem + (".idx" if suffix == ".bin" else ".bin")
        if partner not in by_name:
            raise InputError(f"{file.address}: has no {partner} beside it; both make a data set")
        if file.version is not None:
            raise InputError(f"{file.address}: tokens are read where they lie; copy .bin and .idx to this machine")
        if suffix == ".bin":
            found.append(_read_index(file, number, by_name[partner]))
    if len({one.dtype for one in found}) > 1:
        raise InputError(f"{data.source}: holds tokens of two and of four bytes; keep them in folders apart")
    return found


def split_tokens(
    data: DataSource, folder: Path, tokenizer: Tokenizer, indexed: Sequence[Indexed]
) -> dict[SplitName, Split]:
    """The splits: of each file's documents the last are kept for the test, those before them are held out.

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
            domain = folder_of(piece.of.file.name)
            list_file, list_sha256 = write_list(folder, stem, _listed(piece, n_bytes))
            shard = Shard(
                documents=len(n_bytes),
                tokens=int(piece.documents.sum()),
                bytes=int(n_bytes.sum()),
                file=f"{SOURCE_LINK}/{piece.of.file.name}",
                sha256=sha256,
                first_byte=piece.first_token * _width(piece.of.dtype),
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
    """Documents in a row of one file, for one split: what becomes a shard."""

    of: Indexed
    split: SplitName
    first_token: int
    documents: npt.NDArray[np.int64]


def refuse_text_settings(data: DataSource) -> None:
    """Refuses what only text allows.

    Raises:
        FamilyError: the family file asks for such a thing.
    """
    if data.tokenizer.kind == "bpe":
        raise FamilyError("data.tokenizer.kind = 'bpe': the data are tokens already; use 'gpt2', or 'file' with theirs")
    for key, is_asked in {
        "duplicates": data.duplicates != "keep",
        "decontaminate": data.decontaminate is not None,
        "mixture": bool(data.mixture),
        "shuffle_documents": data.shuffle_documents,
    }.items():
        if is_asked:
            raise FamilyError(f"data.{key}: the data are tokens already and are read as they lie; remove it")


def _read_index(file: CorpusFile, number: int, index: CorpusFile) -> Indexed:
    with reading(index.address), index.open() as stream:
        content = stream.read()
    head = len(_MAGIC) + _HEAD.size
    if content[: len(_MAGIC)] != _MAGIC or len(content) < head:
        raise InputError(f"{index.address}: is no Megatron index (it does not begin with MMIDIDX); fetch it again")
    version, code, n_sequences, n_boundaries = _HEAD.unpack_from(content, len(_MAGIC))
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
    if (sizes < 0).any() or not np.array_equal(places, ends[:-1] * width) or file.bytes != ends[-1] * width:
        raise InputError(
            f"{index.address}: tells of {ends[-1] * width} bytes one after the other, but {file.address} has "
            f"{file.bytes} or lies otherwise; fetch both again"
        )
    if n_boundaries == 0 or bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        raise InputError(f"{index.address}: its document boundaries do not fit its sequences; fetch it again")
    return Indexed(file, number, _DTYPES[code], np.diff(ends[bounds]))


def _pieces(one: Indexed, data: DataSource) -> list[_Piece]:
    n_documents = len(one.documents)
    n_test = round(n_documents * data.test_fraction)
    n_held_out = max(1, round(n_documents * data.held_out_fraction))
    n_train = max(0, n_documents - n_held_out - n_test)
    cuts = [0, n_train, min(n_documents, n_train + n_held_out), n_documents]
    ends = np.concatenate([[0], np.cumsum(one.documents)])
    pieces = []
    for split, first, end in zip(SPLITS, cuts[:-1], cuts[1:], strict=True):
        while first < end:
            until = int(np.searchsorted(ends, ends[first] + _SHARD_TOKENS))
            until = min(end, max(first + 1, until))
            pieces.append(_Piece(one, split, int(ends[first]), one.documents[first:until]))
            first = until
    return [piece for piece in pieces if piece.documents.sum()]


def _measured(piece: _Piece, by_token: npt.NDArray[np.uint16]) -> tuple[str, npt.NDArray[np.int64]]:
    """SHA-256 of the piece's tokens, and the bytes of text in each of its documents."""
    width = _width(piece.of.dtype)
    tokens = np.memmap(
        piece.of.file.address,
        dtype=f"<u{width}",
        mode="r",
        offset=piece.first_token * width,
        shape=(int(piece.documents.sum()),),
    )
    if int(tokens.max()) >= len(by_token):
        place = int(np.argmax(tokens >= len(by_token)))
        raise InputError(
            f"{piece.of.file.address}: token {tokens[place]} at byte {(piece.first_token + place) * width} is not "
            f"below data.tokenizer.vocab_size = {len(by_token)}; give the tokenizer that made the data"
        )
    n_bytes = np.zeros(len(piece.documents), dtype=np.int64)
    filled = np.flatnonzero(piece.documents)
    starts = (np.cumsum(piece.documents) - piece.documents)[filled]
    n_bytes[filled] = np.add.reduceat(by_token[tokens], starts, dtype=np.int64)
    return hashlib.sha256(tokens.data).hexdigest(), n_bytes


def _listed(piece: _Piece, n_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    listed = np.zeros(len(n_bytes), dtype=LISTED)
    listed["tokens"], listed["bytes"], listed["file"] = piece.documents, n_bytes, piece.of.number
    listed["offset"] = (piece.first_token + np.cumsum(piece.documents) - piece.documents) * _width(piece.of.dtype)
    return listed


def _width(dtype: DType) -> int:
    return 2 if dtype == "uint16" else 4
