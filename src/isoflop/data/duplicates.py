"""Copies of documents, found before anything is tokenised: the first one in the corpus's order stays.

Exact copies share the hash of their text. Near copies share most of their runs of words: MinHash signatures
(Broder 1997) of five words in a row, compared through locality-sensitive hashing by the datasketch library.
"""

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.data.batches import Batch, Work, batches
from isoflop.data.documents import Document, parse
from isoflop.data.readers import records
from isoflop.data.records import Fault, Position, Record
from isoflop.data.split import text_digest
from isoflop.data.workers import in_order
from isoflop.durable import write_bytes
from isoflop.errors import InputError

_ALL = 2**62  # no chunks here
_SHINGLE_WORDS = 5
_PERMUTATIONS = 128
_WORD = re.compile(r"\w+")

_Column = npt.NDArray[np.unsignedinteger]
_Found = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]


class Duplicates:
    """The documents to leave out, by file number and offset, in the corpus's order."""

    def __init__(self, files: npt.NDArray[np.uint32], offsets: npt.NDArray[np.uint64]) -> None:
        self._files = files
        self._offsets = offsets
        self._of_file: tuple[int, frozenset[int]] = (-1, frozenset())

    def without(self, batch: Batch) -> tuple[Batch, int]:
        """The batch without them, and how many they were."""
        if not len(self._files):
            return batch, 0
        kept = [item for item in batch.items if isinstance(item, Fault) or item.offset not in self._in(item.file)]
        return replace(batch, items=kept), len(batch.items) - len(kept)

    def _in(self, file: int) -> frozenset[int]:
        if self._of_file[0] != file:
            first, end = np.searchsorted(self._files, [file, file + 1])
            self._of_file = file, frozenset(self._offsets[first:end].tolist())
        return self._of_file[1]


def find_duplicates(work: Work, kept: Path, workers: int, progress: Callable[[str], None]) -> Duplicates:
    """The duplicates that `work` asks to leave out; found once, they are kept in a file.

    Exact copies take 28 bytes of memory a document, near ones some kilobytes.

    Raises:
        InputError: near duplicates are asked for and datasketch is not installed.
    """
    if work.data.duplicates == "keep":
        return Duplicates(np.empty(0, np.uint32), np.empty(0, np.uint64))
    if not kept.exists():
        progress("data: looking for duplicates")
        items = records(work.files, work.data, Position())
        cut = batches(items, _ALL)
        find = _exact if work.data.duplicates == "exact" else _near
        files, offsets = find(work, cut, workers)
        buffer = io.BytesIO()
        np.savez(buffer, files=files, offsets=offsets)
        write_bytes(kept, buffer.getvalue())
    with np.load(kept) as found:
        return Duplicates(found["files"], found["offsets"])


def _exact(work: Work, cut: Iterable[Batch], workers: int) -> _Found:
    columns = [found for _, found in in_order(_digests, work, cut, workers)]
    files, offsets, high, low = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((low, high))  # stable: of equal digests the first in the corpus comes first
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    copies = np.sort(order[1:][same])
    return files[copies], offsets[copies]


def _digests(work: Work, batch: Batch) -> tuple[_Column, ...]:
    """File, offset, and 128 bits of a hash of every document with text."""
    documents = _documents(work, batch)
    digests = np.frombuffer(b"".join(text_digest(text.encode())[16:] for _, text in documents), dtype=">u8")
    files = np.array([record.file for record, _ in documents], dtype=np.uint32)
    offsets = np.array([record.offset for record, _ in documents], dtype=np.uint64)
    return files, offsets, digests[0::2].astype(np.uint64), digests[1::2].astype(np.uint64)


def _near(work: Work, cut: Iterable[Batch], workers: int) -> _Found:
    try:
        from datasketch import MinHashLSH
    except ImportError:
        raise InputError('data.duplicates = "near": needs datasketch; install isoflop[dedup]') from None
    index = MinHashLSH(threshold=work.data.similarity, num_perm=_PERMUTATIONS)
    signatures: list[Any] = []  # of those that stay
    files, offsets = [], []
    for _, signed in in_order(_signatures, work, cut, workers):
        for file, offset, signature in signed:
            if any(signatures[number].jaccard(signature) >= work.data.similarity for number in index.query(signature)):
                files.append(file)
                offsets.append(offset)
            else:
                index.insert(len(signatures), signature, check_duplication=False)
                signatures.append(signature)
    return np.array(files, dtype=np.uint32), np.array(offsets, dtype=np.uint64)


def _signatures(work: Work, batch: Batch) -> list[tuple[int, int, Any]]:
    """File, offset and MinHash of every document with text."""
    from datasketch import LeanMinHash, MinHash

    documents = _documents(work, batch)
    signed = MinHash.bulk((_shingles(text) for _, text in documents), num_perm=_PERMUTATIONS)
    return [(record.file, record.offset, LeanMinHash(one)) for (record, _), one in zip(documents, signed, strict=True)]


def _shingles(text: str) -> list[bytes]:
    words = _WORD.findall(text.lower())
    n_runs = max(1, len(words) - _SHINGLE_WORDS + 1)
    return [" ".join(words[first : first + _SHINGLE_WORDS]).encode() for first in range(n_runs)]


def _documents(work: Work, batch: Batch) -> list[tuple[Record, str]]:
    documents = []
    for item in batch.items:
        document = parse(item, work.files[item.file], work.data.text_key) if isinstance(item, Record) else item
        if isinstance(item, Record) and isinstance(document, Document) and document.text:
            documents.append((item, document.text))
    return documents
