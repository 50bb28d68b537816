"""From a corpus to tokens: read, split by document, tokenise on all cores, shard, and write the manifest last."""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.batches import Batch, Encoded, Work, batches, encode
from isoflop.data.chunks import (
    CHUNK_BYTES,
    ChunkRecord,
    ChunkWriter,
    Journal,
    portions,
    put_in_place,
    read_all,
    settings_key,
)
from isoflop.data.contamination import load_tasks, task_files
from isoflop.data.corpus import CorpusFile, corpus_files, notice_of, source_records
from isoflop.data.croissant import write_croissant
from isoflop.data.documents import no_text, read_documents
from isoflop.data.duplicates import Duplicates, find_duplicates
from isoflop.data.encoding import Encoder
from isoflop.data.manifest import (
    FORMAT_VERSION,
    SPLITS,
    TOKENIZER_FILE,
    Counts,
    DType,
    FaultRecord,
    Manifest,
    Overlap,
    Preparation,
    Shard,
    SourceFile,
    Split,
    SplitName,
    Splits,
    TokenizerRecord,
    load_manifest,
    manifest_path,
)
from isoflop.data.megatron import is_megatron, read_indices, split_tokens
from isoflop.data.readers import records
from isoflop.data.records import Fault, FaultLimit, Position
from isoflop.data.refusals import refuse_differences, refuse_too_few
from isoflop.data.shards import check_sizes, summed
from isoflop.data.split import is_held_out
from isoflop.data.tokenizer import end_of_text, make_tokenizer, tokenizer_json, tokenizer_sha256
from isoflop.data.workers import available_cores, in_order
from isoflop.durable import sha256_of_file, write_json, write_text
from isoflop.errors import InputError, WorkError

# Starting processes takes a second: for less than this on the disk it is quicker without.
_BYTES_WORTH_WORKERS = 2**22

_PARTS = "parts"
_OUR_FILES = re.compile(
    r"(train|held_out|test)-[0-9]{5,}\.(bin|documents\.npy)|tokenizer\.json|croissant\.json|.*\.part"
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """A corpus looked at: its files, their hashes, and the settings that all that is made of it depends on."""

    files: list[CorpusFile]
    sources: tuple[SourceFile, ...]
    notice: str | None
    preparation: Preparation


def prepare(
    data: DataSource,
    folder: Path,
    progress: Progress,
    *,
    workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Manifest:
    """Prepares `data` in `folder` and returns its manifest; what is already there and fits is left as it is.

    The same corpus and settings give the same bytes, whatever the number of workers (default: one a core) and however
    often the work was interrupted: it goes on after the last finished shard. The manifest comes last.

    Raises:
        InputError: the corpus cannot be read or is too small, or `folder` holds data made of something else.
        WorkError: the disk is full, or what `folder` holds is damaged.
    """
    if manifest_path(folder).exists():
        return _what_is_there(data, folder, progress, chunk_bytes)
    try:
        corpus = _look(data, chunk_bytes)
        if is_megatron(corpus.files):
            return _read_in_place(data, folder, progress, corpus)
        tokenise(data, folder, progress, corpus, workers=workers)
        return _finish(data, folder, progress, corpus)
    except InputError:
        _sweep(folder)
        raise
    finally:
        _remove_if_empty(folder)


def prepare_part(
    data: DataSource, folder: Path, progress: Progress, part: int, n_parts: int, *, workers: int | None = None
) -> None:
    """Does every `n_parts`-th portion of the corpus from number `part` on; `prepare` puts all together.

    Raises:
        InputError: as `prepare`; or duplicates are to be left out, which needs the whole corpus in one place.
        WorkError: as `prepare`.
    """
    if data.duplicates != "keep":
        raise InputError("data.duplicates: needs the whole corpus on one machine; run isoflop data without --part")
    if manifest_path(folder).exists():
        _what_is_there(data, folder, progress, CHUNK_BYTES)
        return
    corpus = _look(data, CHUNK_BYTES)
    if not is_megatron(corpus.files):
        tokenise(data, folder, progress, corpus, workers=workers, part=part, n_parts=n_parts)


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
    """Writes the shards that are missing, below `folder`/parts."""
    parts = folder / _PARTS
    key = _key(corpus)
    wanted = portions(corpus.files)
    todo = [
        (number, files)
        for number, files in enumerate(wanted)
        if number % n_parts == part and not _is_done(parts, number, key)
    ]
    if not todo:
        return
    if workers is None:
        n_bytes = sum(corpus.files[n].bytes for _, (first, end) in todo for n in range(first, end))
        workers = available_cores() if n_bytes >= _BYTES_WORTH_WORKERS else 0
    tokenizer = _tokenizer(data, corpus, parts, key, progress)
    work = Work(
        data,
        corpus.files,
        Encoder(data.tokenizer.kind, tokenizer_json(tokenizer)),
        _dtype(data),
        load_tasks(data.decontaminate) if data.decontaminate else None,
    )
    drops = find_duplicates(work, parts / f"duplicates-{key[:16]}.npz", workers, progress)
    for number, files in todo:
        with Journal(parts / f"{number:05d}", key).opened() as journal:
            _tokenise_portion(work, drops, journal, files, parts, number, workers, progress, corpus)


def _tokenise_portion(
    work: Work,
    drops: Duplicates,
    journal: Journal,
    files: tuple[int, int],
    parts: Path,
    number: int,
    workers: int,
    progress: Progress,
    corpus: Corpus,
) -> None:
    limit = _limit(work.data, corpus, journal.chunks)
    told = _Told(progress, journal.chunks)
    last = journal.chunks[-1] if journal.chunks else None
    if last is not None and last.done:
        return
    position = Position(*last.next) if last else Position(files[0])

    def writer() -> ChunkWriter:
        n_chunks = len(journal.chunks)
        seed = number * 2**20 + n_chunks if work.data.shuffle_documents else None
        return ChunkWriter(parts / f"{number:05d}", n_chunks, work.dtype, seed)

    chunk = writer()
    items = records(work.files, work.data, position, files[1])
    cut = batches(items, corpus.preparation.chunk_bytes)
    for (batch, n_dropped), encoded in in_order(encode_item, work, (drops.without(batch) for batch in cut), workers):
        chunk.add(encoded, n_dropped)
        limit.add(encoded.documents, encoded.faults)
        told.add(encoded.documents.total(), encoded.n_bytes)
        position = batch.next
        if batch.closes_chunk:
            journal.add(chunk.write(position, done=False))
            chunk = writer()
    journal.add(chunk.write(position, done=True))


def encode_item(work: Work, item: tuple[Batch, int]) -> Encoded:
    """The work of one process: the tokens of a batch. How many duplicates were taken out of it is the parent's."""
    return encode(work, item[0])


def _finish(data: DataSource, folder: Path, progress: Progress, corpus: Corpus) -> Manifest:
    """Puts the shards in their places and writes what tells of them."""
    parts, key = folder / _PARTS, _key(corpus)
    found = read_all(parts, len(portions(corpus.files)), key)
    chunks = [chunk for portion in found for chunk in portion]
    _limit(data, corpus, chunks).decide()
    if not any(chunk.shards for chunk in chunks):
        raise no_text(data)
    by_split = {split: [chunk.shards[split] for chunk in chunks if split in chunk.shards] for split in SPLITS}
    refuse_too_few(data, summed(by_split["train"]), summed(by_split["held_out"]))
    placed = put_in_place(folder, parts, found)
    splits = Splits(**{split: _split(split, placed[split], chunks) for split in SPLITS})
    tokenizer = _tokenizer(data, corpus, parts, key, progress)
    manifest = _described(data, corpus, tokenizer, splits, _dtype(data), chunks)
    _write(folder, manifest, tokenizer, progress)
    shutil.rmtree(parts, ignore_errors=True)
    return manifest


def _read_in_place(data: DataSource, folder: Path, progress: Progress, corpus: Corpus) -> Manifest:
    """Describes a corpus that is tokens already; none of it is copied."""
    indexed = read_indices(data, corpus.files)
    tokenizer = make_tokenizer(data.tokenizer, ())
    progress("data: reading the tokens where they lie")
    splits = Splits(**split_tokens(data, folder, tokenizer, indexed))
    refuse_too_few(data, splits.train, splits.held_out)
    manifest = _described(data, corpus, tokenizer, splits, indexed[0].dtype, [])
    manifest = manifest.model_copy(update={"documents_read": sum(len(one.documents) for one in indexed)})
    _write(folder, manifest, tokenizer, progress)
    return manifest


def _described(
    data: DataSource,
    corpus: Corpus,
    tokenizer: Tokenizer,
    splits: Splits,
    dtype: DType,
    chunks: list[ChunkRecord],
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        sources=corpus.sources,
        licence=data.licence,
        notice=corpus.notice,
        preparation=corpus.preparation,
        documents_read=sum(sum(chunk.documents.values()) for chunk in chunks),
        empty_documents=sum(chunk.empty for chunk in chunks),
        duplicates_removed=sum(chunk.duplicates for chunk in chunks),
        faults=tuple(_fault_record(corpus, Fault(*fault)) for chunk in chunks for fault in chunk.faults),
        overlaps=_overlaps(data, chunks),
        tokenizer=TokenizerRecord(
            kind=data.tokenizer.kind,
            vocab_size=data.tokenizer.vocab_size,
            end_of_text=end_of_text(tokenizer),
            sha256=tokenizer_sha256(tokenizer),
        ),
        dtype=dtype,
        splits=splits,
    )


def _write(folder: Path, manifest: Manifest, tokenizer: Tokenizer, progress: Progress) -> None:
    splits = manifest.splits
    write_text(folder / TOKENIZER_FILE, tokenizer_json(tokenizer))
    write_croissant(folder, manifest)
    progress(f"data: tokenised: {splits.train.tokens:,} tokens to train on, {splits.held_out.tokens:,} held out")
    write_json(manifest_path(folder), manifest.model_dump(mode="json"))


def _what_is_there(data: DataSource, folder: Path, progress: Progress, chunk_bytes: int) -> Manifest:
    manifest = load_manifest(folder)
    corpus = _look(data, chunk_bytes, manifest.sources)
    refuse_differences(folder, manifest, data, corpus.preparation, corpus.sources, corpus.notice)
    check_sizes(folder, manifest)
    path = folder / TOKENIZER_FILE
    if not path.is_file() or sha256_of_file(path) != manifest.tokenizer.sha256:
        raise WorkError(f"{path}: missing or changed since it was written; delete {folder} and prepare the data again")
    refuse_too_few(data, manifest.splits.train, manifest.splits.held_out)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)  # what a kill right after the manifest left
    progress(f"data: {manifest.splits.train.tokens:,} tokens to train on are ready")
    return manifest


def _look(data: DataSource, chunk_bytes: int, known: tuple[SourceFile, ...] = ()) -> Corpus:
    files = corpus_files(data)
    tasks = task_files(data.decontaminate) if data.decontaminate else []
    preparation = Preparation(
        text_key=data.text_key,
        text_suffixes=tuple(data.text_suffixes),
        held_out_fraction=data.held_out_fraction,
        test_fraction=data.test_fraction,
        faults_allowed=data.faults_allowed,
        end_of_text=data.end_of_text,
        shuffle_documents=data.shuffle_documents,
        duplicates=data.duplicates,
        similarity=data.similarity,
        mixture=dict(sorted(data.mixture.items())),
        decontaminate={path.name: sha256_of_file(path) for path in tasks},
        chunk_bytes=chunk_bytes,
    )
    return Corpus(files, source_records(files, known), notice_of(data.source), preparation)


def _dtype(data: DataSource) -> DType:
    return "uint16" if data.tokenizer.vocab_size <= 2**16 else "uint32"


def _key(corpus: Corpus) -> str:
    sources = [source.model_dump() for source in corpus.sources]
    return settings_key([corpus.preparation.model_dump(), sources])


def _is_done(parts: Path, number: int, key: str) -> bool:
    [chunks] = read_all(parts, number + 1, key)[number:]
    return bool(chunks) and chunks[-1].done


def _tokenizer(data: DataSource, corpus: Corpus, parts: Path, key: str, progress: Progress) -> Tokenizer:
    """The tokenizer, trained (if at all) on nothing that is held out; once trained, it is kept for later calls."""
    if data.tokenizer.kind != "bpe":
        return make_tokenizer(data.tokenizer, ())
    kept = parts / f"tokenizer-{data.tokenizer.vocab_size}-{key[:16]}.json"
    if kept.exists():
        return Tokenizer.from_str(kept.read_text(encoding="utf-8"))
    progress(f"data: training a tokenizer of {data.tokenizer.vocab_size:,} tokens")
    kept_back = data.held_out_fraction + data.test_fraction
    texts = (document.text for document in read_documents(data, corpus.files) if document.text)
    tokenizer = make_tokenizer(data.tokenizer, (text for text in texts if not is_held_out(text, kept_back)))
    write_text(kept, tokenizer_json(tokenizer))
    return tokenizer


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


def _limit(data: DataSource, corpus: Corpus, chunks: list[ChunkRecord]) -> FaultLimit:
    limit = FaultLimit(data.faults_allowed, [file.address for file in corpus.files])
    for chunk in chunks:
        limit.add(chunk.documents, [Fault(*fault) for fault in chunk.faults])
    return limit


def _split(split: SplitName, shards: list[Shard], chunks: list[ChunkRecord]) -> Split:
    domains: dict[str, list[Counts]] = {}
    for chunk in chunks:
        for name, counts in chunk.by_domain.get(split, {}).items():
            domains.setdefault(name, []).append(counts)
    by_domain = {name: summed(counts) for name, counts in sorted(domains.items())}
    return Split(**dict(summed(shards)), shards=tuple(shards), domains=by_domain)


def _overlaps(data: DataSource, chunks: list[ChunkRecord]) -> dict[str, Overlap]:
    if data.decontaminate is None:
        return {}
    overlaps = {}
    for task, ngrams in load_tasks(data.decontaminate).ngrams.items():
        mine = [chunk.overlaps[task] for chunk in chunks if task in chunk.overlaps]
        found = np.unique(np.array([n for overlap in mine for n in overlap.ngrams], dtype=np.uint64))
        overlaps[task] = Overlap(
            ngrams=len(ngrams), found=len(found), documents=sum(overlap.documents for overlap in mine)
        )
    return overlaps


def _fault_record(corpus: Corpus, fault: Fault) -> FaultRecord:
    file = corpus.files[fault.file].name
    return FaultRecord(file=file, offset=fault.offset, reason=fault.reason, rest_of_file=fault.rest_of_file)


def _sweep(folder: Path) -> None:
    """Removes all of ours from a folder without a manifest."""
    try:
        if folder.is_dir() and not manifest_path(folder).exists():
            shutil.rmtree(folder / _PARTS, ignore_errors=True)
            for path in folder.iterdir():
                if _OUR_FILES.fullmatch(path.name):
                    path.unlink()
    except OSError as error:
        raise WorkError(f"{folder}: cannot clean up ({error.strerror}); check its permissions and run again") from None


def _remove_if_empty(folder: Path) -> None:
    """Removes what an interruption before the first finished chunk left: empty journals and folders."""
    parts = folder / _PARTS
    if parts.is_dir() and not any(path.suffix in (".bin", ".json", ".npz") for path in parts.rglob("*")):
        shutil.rmtree(parts, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
