"""The manifest of a corpus, out of what was looked at and what its chunks tell."""

import numpy as np
from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.chunks import ChunkRecord
from isoflop.data.contamination import load_tasks
from isoflop.data.look import Corpus
from isoflop.data.manifest import (
    FORMAT_VERSION,
    SPLITS,
    Counts,
    DType,
    FaultRecord,
    Manifest,
    Overlap,
    Shard,
    Split,
    SplitName,
    Splits,
    TokenizerRecord,
)
from isoflop.data.records import Fault
from isoflop.data.shards import summed
from isoflop.data.tokenizer import end_of_text, tokenizer_sha256


def described(
    data: DataSource,
    corpus: Corpus,
    tokenizer: Tokenizer,
    splits: Splits,
    dtype: DType,
    chunks: list[ChunkRecord],
) -> Manifest:
    """The manifest; `chunks` are none of a corpus that was tokens already."""
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


def splits_of(placed: dict[SplitName, list[Shard]], chunks: list[ChunkRecord]) -> Splits:
    """The splits with their shards where they lie now."""
    return Splits(**{split: _split(split, placed[split], chunks) for split in SPLITS})


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
