"""Chunks: the tokens of some 128 MiB of text, put on the disk whole, and the journal that says which are there.

Files of a corpus are taken together to portions, which may be worked on by different machines. A portion is a row of
chunks; each makes at most one shard a split, and a line in the portion's journal. So work that was killed goes on
after the last line, and ends with the same bytes.
"""

import fcntl
import hashlib
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.data.batches import LISTED, Encoded
from isoflop.data.corpus import CorpusFile
from isoflop.data.manifest import SPLITS, Counts, DType, Record, Shard, SplitName
from isoflop.data.order import sample_ids
from isoflop.data.records import Fault, Position
from isoflop.durable import sync_folder, write_bytes
from isoflop.errors import WorkError

CHUNK_BYTES = 2**27
"""Of text as it is read: some 30 million tokens of English. The Pile makes some 6,600 shards of them."""

PORTION_BYTES = 2**28
"""The least that one machine of several takes, as it lies on the disk: smaller files are taken together."""

_JOURNAL = "journal.jsonl"


class TaskOverlap(Record):
    """Training documents removed for a task's sake, and the n-grams of it that they held."""

    documents: int
    ngrams: tuple[int, ...]


class ChunkRecord(Record):
    """A line of the journal: what a chunk made, and where reading goes on after it. The last line is `done`."""

    next: tuple[int, int, int]
    done: bool
    shards: dict[SplitName, Shard]
    by_domain: dict[SplitName, dict[str, Counts]]
    documents: dict[int, int]
    faults: tuple[tuple[int, int, int, int, str, bool], ...]
    empty: int
    duplicates: int
    overlaps: dict[str, TaskOverlap]


def portions(files: Sequence[CorpusFile]) -> list[tuple[int, int]]:
    """(first, end) numbers of files in a row that have PORTION_BYTES together on the disk: what one machine takes."""
    cuts, size = [0], 0
    for number, file in enumerate(files, start=1):
        size += file.bytes
        if size >= PORTION_BYTES or number == len(files):
            cuts.append(number)
            size = 0
    return list(itertools.pairwise(cuts))


class Journal:
    """The chunks of a portion that are on the disk, held by one process at a time."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        self._path = folder / _JOURNAL
        self._settings = settings
        self.chunks: list[ChunkRecord] = []

    @contextmanager
    def opened(self) -> Iterator["Journal"]:
        """Reads what is there; chunks of other settings, torn lines and what follows a missing shard are forgotten.

        Raises:
            WorkError: another process works on the portion, or the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise WorkError(f"{self._path.parent}: another process is at work here; wait for it") from None
                self._file = file
                self._read()
                yield self
        except OSError as error:
            raise WorkError(f"{self._path}: cannot write ({error.strerror}); free space and run again") from error

    def add(self, chunk: ChunkRecord) -> None:
        """A chunk whose shards are on the disk."""
        self._write(chunk.model_dump_json())
        self.chunks.append(chunk)

    def _read(self) -> None:
        self._file.seek(0)
        head, *lines = self._file.read().split(b"\n")[:-1] or [b""]
        self.chunks = []
        if head == self._settings.encode():
            for line in lines:
                chunk = ChunkRecord.model_validate_json(line)
                if not chunk.done and not self._is_here(chunk):
                    break
                self.chunks.append(chunk)
        if self.chunks and self.chunks[-1].done:
            return  # its shards may have been moved to their places already
        self._file.truncate(0)
        self._write(self._settings, *(chunk.model_dump_json() for chunk in self.chunks))

    def _is_here(self, chunk: ChunkRecord) -> bool:
        names = [name for shard in chunk.shards.values() for name in (shard.file, shard.list_file)]
        return all((self._path.parent / name).is_file() for name in names)

    def _write(self, *lines: str) -> None:
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


class ChunkWriter:
    """Collects what batches were encoded to and puts it on the disk as shards, one a split."""

    def __init__(self, folder: Path, number: int, dtype: DType, shuffle_seed: int | None) -> None:
        self._folder = folder
        self._number = number
        self._dtype = np.dtype("<u2" if dtype == "uint16" else "<u4")
        self._shuffle_seed = shuffle_seed
        self._tokens: dict[tuple[SplitName, int], list[bytes]] = {}
        self._listed: dict[tuple[SplitName, int], list[npt.NDArray[np.void]]] = {}
        self._domains: dict[str, int] = {}
        self._documents: Counter[int] = Counter()
        self._faults: list[Fault] = []
        self._empty = self._duplicates = 0
        self._overlaps: dict[str, list[npt.NDArray[np.uint64]]] = {}

    def add(self, encoded: Encoded, duplicates: int) -> None:
        """Puts a batch at the end."""
        numbers = [self._domains.setdefault(name, len(self._domains)) for name in encoded.domains]
        for key, (tokens, listed) in encoded.groups.items():
            listed["domain"] = np.array(numbers, dtype="<u4")[listed["domain"]]
            self._tokens.setdefault(key, []).append(tokens)
            self._listed.setdefault(key, []).append(listed)
        self._documents.update(encoded.documents)
        self._faults += encoded.faults
        self._empty += encoded.n_empty
        self._duplicates += duplicates
        for task, found in encoded.overlaps.items():
            self._overlaps.setdefault(task, []).extend(found)

    def write(self, after: Position, done: bool) -> ChunkRecord:
        """Writes the shards and tells of them.

        Raises:
            WorkError: the disk is full or cannot be written.
        """
        names = list(self._domains)
        shards: dict[SplitName, Shard] = {}
        by_domain: dict[SplitName, dict[str, Counts]] = {}
        for split in SPLITS:
            # Copies of a document lie as far apart as a chunk allows: never in one window of the model.
            keys = sorted(key for key in self._tokens if key[0] == split)
            if keys:
                pieces = [piece for key in keys for piece in self._tokens[key]]
                listed = np.concatenate([part for key in keys for part in self._listed[key]])
                shards[split] = self._shard(split, pieces, listed, names)
                by_domain[split] = _by_domain(listed, names)
        return ChunkRecord(
            next=(after.file, after.offset, after.number),
            done=done,
            shards=shards,
            by_domain=by_domain,
            documents=dict(self._documents),
            faults=tuple((f.file, f.offset, f.number, f.end, f.reason, f.rest_of_file) for f in self._faults),
            empty=self._empty,
            duplicates=self._duplicates,
            overlaps={
                task: TaskOverlap(documents=len(found), ngrams=tuple(np.unique(np.concatenate(found)).tolist()))
                for task, found in self._overlaps.items()
            },
        )

    def _shard(self, split: SplitName, pieces: list[bytes], listed: npt.NDArray[np.void], names: list[str]) -> Shard:
        if self._shuffle_seed is not None:
            pieces, listed = self._shuffled(b"".join(pieces), listed)
        file = f"{split}-{self._number:05d}.bin"
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        write_bytes(self._folder / file, pieces)
        list_file, list_sha256 = write_list(self._folder, file, listed)
        return Shard(
            documents=len(listed),
            tokens=int(listed["tokens"].sum(dtype=np.int64)),
            bytes=int(listed["bytes"].sum(dtype=np.int64)),
            file=file,
            sha256=digest.hexdigest(),
            list_file=list_file,
            list_sha256=list_sha256,
            domains=tuple(names),
        )

    def _shuffled(self, tokens: bytes, listed: npt.NDArray[np.void]) -> tuple[list[bytes], npt.NDArray[np.void]]:
        assert self._shuffle_seed is not None
        order = sample_ids(0, len(listed), len(listed), self._shuffle_seed)
        ends = np.cumsum(listed["tokens"], dtype=np.int64) * self._dtype.itemsize
        starts = ends - listed["tokens"].astype(np.int64) * self._dtype.itemsize
        return [tokens[starts[number] : ends[number]] for number in order], listed[order]


def write_list(folder: Path, shard_file: str, listed: npt.NDArray[np.void]) -> tuple[str, str]:
    """Writes the list of a shard's documents; its name and SHA-256."""
    name = shard_file.removesuffix(".bin") + ".documents.npy"
    buffer = io.BytesIO()
    np.save(buffer, listed.astype(LISTED))
    write_bytes(folder / name, buffer.getvalue())
    return name, hashlib.sha256(buffer.getbuffer()).hexdigest()


def read_portion(parts: Path, number: int, settings: str) -> list[ChunkRecord]:
    """The chunks of a portion, as far as they are there; the last one of a finished portion is done."""
    path = parts / f"{number:05d}" / _JOURNAL
    head, *lines = (path.read_bytes() if path.exists() else b"").split(b"\n")
    mine = lines[:-1] if head == settings.encode() else []
    return [ChunkRecord.model_validate_json(line) for line in mine]


def put_in_place(folder: Path, parts: Path, found: list[list[ChunkRecord]]) -> dict[SplitName, list[Shard]]:
    """Moves all shards beside the manifest, numbered over all portions; what was moved before stays."""
    placed: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
    for number, chunks in enumerate(found):
        for chunk in chunks:
            for split, shard in chunk.shards.items():
                stem = f"{split}-{len(placed[split]):05d}"
                moved = shard.model_copy(update={"file": f"{stem}.bin", "list_file": f"{stem}.documents.npy"})
                for before, after in ((shard.file, moved.file), (shard.list_file, moved.list_file)):
                    part = parts / f"{number:05d}" / before
                    if part.exists():
                        os.replace(part, folder / after)
                placed[split].append(moved)
    sync_folder(folder)
    return placed


def _by_domain(listed: npt.NDArray[np.void], names: list[str]) -> dict[str, Counts]:
    counts = {}
    for number in np.unique(listed["domain"]):
        rows = listed[listed["domain"] == number]
        counts[names[number]] = Counts(
            documents=len(rows),
            tokens=int(rows["tokens"].sum(dtype=np.int64)),
            bytes=int(rows["bytes"].sum(dtype=np.int64)),
        )
    return counts


def settings_key(settings: object) -> str:
    """A name for settings: equal for equal ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
