"""Batches of records to tokens by split: the work of one process, a pure function of batch and settings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from isoflop.config import DataSource
from isoflop.data.contamination import Tasks
from isoflop.data.corpus import CorpusFile
from isoflop.data.documents import parse
from isoflop.data.encoding import Encoder
from isoflop.data.manifest import DType, SplitName
from isoflop.data.records import Fault, Position, Record, after
from isoflop.data.split import copies_of, split_of, text_digest

_BATCH_BYTES = 2**20
_BATCH_RECORDS = 4096

LISTED = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("file", "<u4"), ("domain", "<u4"), ("offset", "<u8")])
"""A document in a shard's list: its tokens and bytes, its source file by number, its domain by number, and where in
the file it begins."""


@dataclass(frozen=True)
class Work:
    """What turns records into tokens; sent to each worker once."""

    data: DataSource
    files: Sequence[CorpusFile]
    encoder: Encoder
    dtype: DType
    tasks: Tasks | None


@dataclass(frozen=True)
class Batch:
    """Records and faults in a row, and where reading goes on after them. `closes_chunk` if a chunk ends here."""

    items: list[Record | Fault]
    next: Position
    closes_chunk: bool


@dataclass
class Encoded:
    """What came of a batch: by split and number of copy, the tokens and the list of their documents."""

    groups: dict[tuple[SplitName, int], tuple[bytes, npt.NDArray[np.void]]]
    domains: list[str]
    faults: list[Fault]
    documents: Counter[int] = field(default_factory=Counter)  # read, by number of their file
    n_empty: int = 0
    n_bytes: int = 0
    overlaps: dict[str, list[npt.NDArray[np.uint64]]] = field(default_factory=dict)  # an array a document removed


def batches(items: Iterable[Record | Fault], chunk_bytes: int) -> Iterator[Batch]:
    """Cuts what is read into batches, and these into chunks of at least `chunk_bytes`.

    Cuts depend on what is read from the chunk's first record on and on nothing else.
    """
    batch: list[Record | Fault] = []
    batch_bytes = in_chunk = 0
    for item in items:
        batch.append(item)
        batch_bytes += len(item.content) if isinstance(item, Record) else 0
        if batch_bytes >= min(_BATCH_BYTES, chunk_bytes) or len(batch) >= _BATCH_RECORDS:
            in_chunk += batch_bytes
            closes = in_chunk >= chunk_bytes
            yield Batch(batch, after(item), closes)
            batch, batch_bytes, in_chunk = [], 0, 0 if closes else in_chunk
    if batch:
        yield Batch(batch, after(batch[-1]), closes_chunk=False)


def encode(work: Work, batch: Batch) -> Encoded:
    """The tokens of a batch."""
    dtype = np.dtype("<u2" if work.dtype == "uint16" else "<u4")
    end = np.array([work.encoder.end_of_text], dtype=dtype).tobytes() if work.data.end_of_text else b""
    tokens: dict[tuple[SplitName, int], list[bytes]] = {}
    listed: dict[tuple[SplitName, int], list[tuple[int, int, int, int, int]]] = {}
    domains: dict[str, int] = {}
    encoded = Encoded({}, [], [])
    for item in batch.items:
        document = item if isinstance(item, Fault) else parse(item, work.files[item.file], work.data.text_key)
        if isinstance(document, Fault):
            encoded.faults.append(document)
            continue
        encoded.documents[item.file] += 1
        if not document.text:
            encoded.n_empty += 1
            continue
        content = document.text.encode()
        encoded.n_bytes += len(content)
        digest = text_digest(content)
        split = split_of(digest, work.data)
        copies = 1
        if split == "train":
            copies = copies_of(digest, work.data.mixture.get(document.domain, 1.0))
            if copies and work.tasks is not None and (found := work.tasks.found_in(document.text)):
                for task, ngrams in found.items():
                    encoded.overlaps.setdefault(task, []).append(ngrams)
                copies = 0
        if copies:
            pieces = [piece.astype(dtype).tobytes() for piece in work.encoder.encode_in_pieces(document.text)]
            pieces.append(end)
            domain = domains.setdefault(document.domain, len(domains))
            n_tokens = sum(map(len, pieces)) // dtype.itemsize
            row = (n_tokens, len(content), item.file, domain, item.offset)
            for copy in range(copies):
                tokens.setdefault((split, copy), []).extend(pieces)
                listed.setdefault((split, copy), []).append(row)
    encoded.groups = {key: (b"".join(tokens[key]), np.array(listed[key], dtype=LISTED)) for key in tokens}
    encoded.domains = list(domains)
    return encoded
