"""Tokens on disk: a split as one long row of numbers, cut into files of bounded size."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.data.hashes import Hashes
from isoflop.data.manifest import (
    TOKENIZER_FILE,
    Counts,
    DType,
    Manifest,
    Shard,
    SplitName,
    load_manifest,
)
from isoflop.errors import WorkError

Tokens = npt.NDArray[np.int64]

_MAPPED_SHARDS = 256  # each holds a file descriptor, of which a process may have 1,024


class TokenStream:
    """The tokens of a split as one sequence, read where they lie.

    Sample i of context length T is tokens[i * T : i * T + T + 1]: T inputs, and the same moved by one as targets. The
    last token of a sample is the first of the next, so that every token but the first is a target once.

    A shard is checked against its SHA-256 before the first of its tokens is given out, unless it was before and nobody
    touched it since.

    Raises:
        WorkError: the manifest cannot be used, or a shard is missing or of another size than it says; later, from
            `sample` and `batch`, a shard has changed.
    """

    def __init__(self, folder: Path, split: SplitName) -> None:
        manifest = load_manifest(folder)
        shards = manifest.split(split).shards
        check_sizes(folder, manifest)
        self._folder = folder
        self._dtype = dtype_of(manifest.dtype)
        self._shards = shards
        self._hashes = Hashes(folder)
        self._checked: set[int] = set()
        self._starts = np.cumsum([0, *(shard.tokens for shard in shards)], dtype=np.int64)  # (shards + 1,)
        self._shard = functools.lru_cache(maxsize=_MAPPED_SHARDS)(self._map)
        self.n_tokens = int(self._starts[-1])

    def n_samples(self, context_length: int) -> int:
        """How many whole samples of that length there are."""
        return max(0, (self.n_tokens - 1) // context_length)

    def sample(self, index: int, context_length: int) -> Tokens:
        """Sample `index`: (context_length + 1,)."""
        return self.batch([index], context_length).reshape(context_length + 1)

    def batch(self, indices: npt.ArrayLike, context_length: int) -> Tokens:
        """The samples of those numbers: (len(indices), context_length + 1).

        Raises:
            IndexError: a number is not in range(n_samples).
            WorkError: a shard that holds one has changed.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        n_samples = self.n_samples(context_length)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= n_samples):
            raise IndexError(f"samples {numbers.min()} to {numbers.max()} asked of {n_samples}")
        width = context_length + 1
        starts = numbers * context_length
        first = np.searchsorted(self._starts, starts, side="right") - 1
        last = np.searchsorted(self._starts, starts + width - 1, side="right") - 1
        batch = np.empty((len(numbers), width), dtype=np.int64)
        for shard in np.unique(first[first == last]):
            rows = np.flatnonzero((first == shard) & (last == shard))
            windows = np.lib.stride_tricks.sliding_window_view(self._shard(int(shard)), width)  # (tokens - T, T + 1)
            batch[rows] = windows[starts[rows] - self._starts[shard]]
        for row in np.flatnonzero(first != last):
            batch[row] = self._across(int(starts[row]), width, range(int(first[row]), int(last[row]) + 1))
        return batch

    def _across(self, start: int, width: int, shards: range) -> Tokens:
        """tokens[start : start + width], which lie in several shards."""
        parts = []
        for shard in shards:
            offset = int(self._starts[shard])
            parts.append(self._shard(shard)[max(0, start - offset) : start + width - offset])
        return np.concatenate(parts).astype(np.int64)

    def _map(self, shard: int) -> npt.NDArray[np.unsignedinteger]:
        record = self._shards[shard]
        if shard not in self._checked:
            _refuse_changed_shard(self._hashes, self._folder, record, self._dtype.itemsize)
            self._checked.add(shard)
        path = self._folder / record.file
        return np.asarray(np.memmap(path, self._dtype, "r", offset=record.first_byte, shape=(record.tokens,)))


def verify(folder: Path, anew: bool = False) -> Manifest:
    """Returns the manifest of the data in `folder` if every byte is as it says.

    What was read before and not touched since is not read again, unless `anew` asks for it.

    Raises:
        WorkError: a shard or the tokenizer has changed; it is named.
    """
    manifest = load_manifest(folder)
    check_sizes(folder, manifest)
    width = dtype_of(manifest.dtype).itemsize
    lists = {shard.list_file: shard.list_sha256 for shard in _shards(manifest)}
    lists[TOKENIZER_FILE] = manifest.tokenizer.sha256
    hashes = Hashes(folder, anew)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda shard: _refuse_changed_shard(hashes, folder, shard, width), _shards(manifest)))
        list(pool.map(lambda name: refuse_changed(hashes, folder, name, lists[name]), lists))
    hashes.keep()
    return manifest


def refuse_changed(hashes: Hashes, folder: Path, name: str, sha256: str) -> None:
    """Checks the SHA-256 of the file of that name in `folder`.

    Raises:
        WorkError: it is missing or has changed.
    """
    _refuse_other(folder, name, sha256, lambda: hashes.of(folder / name))


def _refuse_changed_shard(hashes: Hashes, folder: Path, shard: Shard, width: int) -> None:
    """The same for a shard, which may be a part of a larger file."""
    n_bytes = shard.tokens * width
    _refuse_other(folder, shard.file, shard.sha256, lambda: hashes.of(folder / shard.file, shard.first_byte, n_bytes))


def _refuse_other(folder: Path, name: str, sha256: str, hashed: Callable[[], str]) -> None:
    try:
        found = hashed()
    except OSError as error:
        raise WorkError(f"{folder / name}: cannot read ({error.strerror}); {_remedy(folder)}") from None
    if found != sha256:
        raise WorkError(
            f"{folder / name}: changed since it was written (SHA-256 {found[:12]}..., not {sha256[:12]}...); "
            f"{_remedy(folder)}"
        )


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Checks that every shard is there with the size it should have, without reading it.

    Raises:
        WorkError: one is not.
    """
    for shard in _shards(manifest):
        path = folder / shard.file
        expected = shard.first_byte + shard.tokens * dtype_of(manifest.dtype).itemsize
        if not path.is_file():
            raise WorkError(f"{path}: missing; {_remedy(folder)}")
        size = path.stat().st_size
        if size < expected or (size > expected and not shard.is_in_corpus):
            raise WorkError(f"{path}: has {size} bytes instead of {expected}; {_remedy(folder)}")


def dtype_of(name: DType) -> np.dtype[np.unsignedinteger]:
    """How tokens lie on disk: little-endian on every machine."""
    return np.dtype("<u2" if name == "uint16" else "<u4")


def _shards(manifest: Manifest) -> tuple[Shard, ...]:
    splits = manifest.splits
    return splits.train.shards + splits.held_out.shards + splits.test.shards


def _remedy(folder: Path) -> str:
    return f"bring it back from a copy, or delete {folder} and prepare the data again"


def summed(parts: Iterable[Counts]) -> Counts:
    """The counts of all parts together."""
    documents = tokens = n_bytes = 0
    for part in parts:
        documents, tokens, n_bytes = documents + part.documents, tokens + part.tokens, n_bytes + part.bytes
    return Counts(documents=documents, tokens=tokens, bytes=n_bytes)
