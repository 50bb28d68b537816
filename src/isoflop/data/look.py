"""A corpus before any of it is tokenised: its files and their hashes, and the settings that decide the tokens."""

from dataclasses import dataclass
from pathlib import Path

from isoflop.config import DataSource, FileTokenizer
from isoflop.data.chunks import settings_key
from isoflop.data.corpus import CorpusFile, corpus_files, notice_of, source_records
from isoflop.data.manifest import FORMAT_VERSION, Manifest, Preparation, SourceFile
from isoflop.data.task_texts import task_files
from isoflop.durable import sha256_of_file
from isoflop.errors import FamilyError


@dataclass(frozen=True)
class Corpus:
    """A corpus looked at: its files, their hashes, and the settings; `key` names all that tokens depend on."""

    files: list[CorpusFile]
    sources: tuple[SourceFile, ...]
    notice: str | None
    preparation: Preparation
    key: str


def look(data: DataSource, chunk_bytes: int, known: tuple[SourceFile, ...] = (), anew: bool = False) -> Corpus:
    """The corpus of `data`. What was hashed before, or has the version that `known` tells of, is not unless `anew`.

    Raises:
        InputError: a file cannot be read, or its format is unknown.
    """
    files = corpus_files(data)
    preparation = _preparation(data, chunk_bytes)
    sources = source_records(data.source, files, known, anew)
    settings = [FORMAT_VERSION, preparation.model_dump(exclude={"faults_allowed"}), _tokenizer_key(data)]
    key = settings_key([settings, [source.model_dump() for source in sources]])
    return Corpus(files, sources, notice_of(data.source), preparation, key)


def remembered(data: DataSource, chunk_bytes: int, manifest: Manifest) -> Corpus:
    """A corpus that is not here, as `manifest` tells of it, with the settings of `data`."""
    return Corpus([], manifest.sources, manifest.notice, _preparation(data, chunk_bytes), "")


def _preparation(data: DataSource, chunk_bytes: int) -> Preparation:
    return Preparation(
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
        decontaminate=_task_hashes(data.decontaminate),
        chunk_bytes=chunk_bytes,
    )


def _task_hashes(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    files = [path for mine in task_files(folder).values() for path in mine]
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files}


def _tokenizer_key(data: DataSource) -> list[object]:
    tokenizer = data.tokenizer
    key: list[object] = [tokenizer.kind, tokenizer.vocab_size]
    if isinstance(tokenizer, FileTokenizer):
        try:
            key.append(sha256_of_file(tokenizer.path))
        except OSError as error:
            raise FamilyError(
                f"data.tokenizer.path: cannot read {tokenizer.path} ({error.strerror}); give the tokenizer.json"
            ) from None
    return key
