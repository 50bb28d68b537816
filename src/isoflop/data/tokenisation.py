"""Tokenising a corpus: portion by portion, chunk by chunk, on all cores; what is done already is left."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.batches import Batch, Encoded, Work, batches, encode
from isoflop.data.bpe import load_bpe
from isoflop.data.chunks import ChunkRecord, ChunkWriter, Journal, portions, read_portion
from isoflop.data.contamination import load_tasks
from isoflop.data.documents import read_documents
from isoflop.data.duplicates import Duplicates, find_duplicates
from isoflop.data.encoding import Encoder
from isoflop.data.look import Corpus
from isoflop.data.manifest import DType
from isoflop.data.readers import records
from isoflop.data.records import Fault, FaultLimit, Position
from isoflop.data.split import is_held_out
from isoflop.data.tokenizer import make_tokenizer, tokenizer_json
from isoflop.data.workers import available_cores, in_order
from isoflop.durable import write_text

PARTS = "parts"
"""The folder beside the manifest in which chunks lie until all are done."""

# Starting processes takes a second: for less than this on the disk it is quicker without.
_BYTES_WORTH_WORKERS = 2**22

Progress = Callable[[str], None]


def tokenise(
    data: DataSource,
    folder: Path,
    progress: Progress,
    corpus: Corpus,
    *,
    workers: int | None = None,
    part: int = 0,
    n_parts: int = 1,
) -> None:
    """Writes the shards that are missing, below `folder`/parts.

    Raises:
        InputError: over half of the documents cannot be read, or the tokenizer cannot be made of them.
        WorkError: the disk is full, a store does not answer, or a worker was killed.
    """
    parts = folder / PARTS
    todo = [
        (number, files)
        for number, files in enumerate(portions(corpus.files))
        if number % n_parts == part and not _is_done(parts, number, corpus.key)
    ]
    if not todo:
        return
    if workers is None:
        n_bytes = sum(corpus.files[n].bytes for _, (first, end) in todo for n in range(first, end))
        workers = available_cores() if n_bytes >= _BYTES_WORTH_WORKERS else 0
    tokenizer = tokenizer_of(data, corpus, parts, progress)
    work = Work(
        data,
        corpus.files,
        Encoder(data.tokenizer.kind, tokenizer_json(tokenizer)),
        dtype_for(data),
        load_tasks(data.decontaminate) if data.decontaminate else None,
    )
    if data.tokenizer.kind != "file" and load_bpe() is None:
        progress("no C compiler found: tiktoken encodes, at a fifth of the rate (install gcc for full speed)")
    drops = find_duplicates(work, parts / f"duplicates-{corpus.key[:16]}.npz", workers, progress)
    for number, files in todo:
        with Journal(parts / f"{number:05d}", corpus.key).opened() as journal:
            _tokenise_portion(work, corpus, drops, journal, number, files, workers, progress)


def _tokenise_portion(
    work: Work,
    corpus: Corpus,
    drops: Duplicates,
    journal: Journal,
    number: int,
    files: tuple[int, int],
    workers: int,
    progress: Progress,
) -> None:
    limit = fault_limit(work.data, corpus, journal.chunks)
    told = _Told(progress, journal.chunks)
    last = journal.chunks[-1] if journal.chunks else None
    if last is not None and last.done:
        return
    position = Position(*last.next) if last else Position(files[0])

    def writer(chunk_number: int) -> ChunkWriter:
        seed = number * 2**20 + chunk_number if work.data.shuffle_documents else None
        return ChunkWriter(journal.folder, chunk_number, work.dtype, seed)

    def write(chunk: ChunkWriter, after: Position, done: bool) -> None:
        journal.add(chunk.write(after, done))

    n_chunks = len(journal.chunks)
    chunk = writer(n_chunks)
    items = records(work.files, work.data, position, files[1])
    cut = batches(items, corpus.preparation.chunk_bytes)
    # Writing and syncing a chunk takes as long as tokenising some of the next: a thread does it meanwhile.
    with ThreadPoolExecutor(1) as disk:
        writing = disk.submit(lambda: None)
        for (batch, n_dropped), encoded in in_order(
            encode_item, work, (drops.without(batch) for batch in cut), workers
        ):
            chunk.add(encoded, n_dropped)
            limit.add(encoded.documents, encoded.faults)
            told.add(encoded.documents.total(), encoded.n_bytes)
            position = batch.next
            if batch.closes_chunk:
                writing.result()
                writing = disk.submit(write, chunk, position, False)
                n_chunks += 1
                chunk = writer(n_chunks)
        writing.result()
        write(chunk, position, True)


def encode_item(work: Work, item: tuple[Batch, int]) -> Encoded:
    """The work of one process: the tokens of a batch. How many duplicates were taken out of it is the parent's."""
    return encode(work, item[0])


def _is_done(parts: Path, number: int, key: str) -> bool:
    chunks = read_portion(parts, number, key)
    return bool(chunks) and chunks[-1].done


def tokenizer_of(data: DataSource, corpus: Corpus, parts: Path, progress: Progress) -> Tokenizer:
    """The tokenizer, trained (if at all) on nothing that is held out; once trained, it is kept for later calls."""
    if data.tokenizer.kind != "bpe":
        return make_tokenizer(data.tokenizer, ())
    kept = parts / f"tokenizer-{data.tokenizer.vocab_size}-{corpus.key[:16]}.json"
    if kept.exists():
        return Tokenizer.from_str(kept.read_text(encoding="utf-8"))
    progress(f"data: training a tokenizer of {data.tokenizer.vocab_size:,} tokens")
    kept_back = data.held_out_fraction + data.test_fraction
    texts = (document.text for document in read_documents(data, corpus.files) if document.text)
    tokenizer = make_tokenizer(data.tokenizer, (text for text in texts if not is_held_out(text, kept_back)))
    write_text(kept, tokenizer_json(tokenizer))
    return tokenizer


def dtype_for(data: DataSource) -> DType:
    """How the tokens of text lie in shards: in as few bytes as hold the vocabulary."""
    return "uint16" if data.tokenizer.vocab_size <= 2**16 else "uint32"


def fault_limit(data: DataSource, corpus: Corpus, chunks: list[ChunkRecord]) -> FaultLimit:
    """The limit of faults, with what the chunks told of counted already."""
    limit = FaultLimit(data.faults_allowed, [file.address for file in corpus.files])
    for chunk in chunks:
        limit.add(chunk.documents, [Fault(*fault) for fault in chunk.faults])
    return limit


class _Told:
    """Tells how far the work is, a line every second."""

    def __init__(self, progress: Progress, chunks: list[ChunkRecord]) -> None:
        self._progress = progress
        self._documents = sum(sum(chunk.documents.values()) for chunk in chunks)
        self._bytes = 0
        self._begin = time.monotonic()
        self._next = self._begin + 1
        if self._documents:
            progress(f"data: going on after {len(chunks)} finished chunks, {self._documents:,} documents")

    def add(self, documents: int, n_bytes: int) -> None:
        self._documents += documents
        self._bytes += n_bytes
        if (now := time.monotonic()) >= self._next:
            megabytes = self._bytes / 1e6
            rate = megabytes / (now - self._begin)
            self._progress(f"data: {self._documents:,} documents, {megabytes:.1f} MB of text, {rate:.1f} MB/s")
            self._next = now + 1
