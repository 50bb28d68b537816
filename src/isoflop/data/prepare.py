"""From a corpus to tokens: read, split by document, tokenise, shard, and write the manifest last."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.encoding import encode_documents
from isoflop.data.manifest import (
    FORMAT_VERSION,
    TOKENIZER_FILE,
    DType,
    Manifest,
    SourceFile,
    Splits,
    TokenizerRecord,
    load_manifest,
    manifest_path,
)
from isoflop.data.readers import Document, corpus_files, read_documents
from isoflop.data.shards import ShardWriter, check_sizes
from isoflop.data.split import is_held_out
from isoflop.data.tokenizer import end_of_text, make_tokenizer, tokenizer_json, tokenizer_sha256
from isoflop.durable import sha256_of_file, write_json, write_text
from isoflop.errors import FamilyError, InputError, WorkError

# 128 MiB as uint16. Each of the two splits waits in memory for as much; the Pile makes some 5,500 such shards.
SHARD_TOKENS = 2**26

_OUR_FILES = re.compile(r"(train|held_out)-[0-9]{5,}\.bin|tokenizer\.json|.*\.part")


def prepare(
    data: DataSource, folder: Path, progress: Callable[[str], None], *, shard_tokens: int = SHARD_TOKENS
) -> Manifest:
    """Prepares `data` in `folder` and returns its manifest; what is already there and fits is left as it is.

    The same corpus and settings give the same bytes. The manifest comes last: a folder without one holds nothing of
    worth, and the next call starts over.

    Raises:
        InputError: the corpus cannot be read or is too small, or `folder` holds data made of something else.
        WorkError: the disk is full, or what `folder` holds is damaged.
    """
    sources = _sources(data.source)
    notice = _notice(data.source)
    if manifest_path(folder).exists():
        manifest = load_manifest(folder)
        _refuse_differences(folder, manifest, data, sources, notice)
        _check_files(folder, manifest)
        _refuse_too_few(manifest, data)
        progress(f"data: {manifest.splits.train.tokens:,} tokens to train on are ready")
        return manifest
    _sweep(folder)
    try:
        manifest = _write_tokens(data, folder, sources, notice, shard_tokens, progress)
        _refuse_too_few(manifest, data)
        write_json(manifest_path(folder), manifest.model_dump(mode="json"))
    except BaseException:
        _sweep(folder)
        raise
    return manifest


def _write_tokens(
    data: DataSource,
    folder: Path,
    sources: tuple[SourceFile, ...],
    notice: str | None,
    shard_tokens: int,
    progress: Callable[[str], None],
) -> Manifest:
    tokenizer = _tokenizer(data, progress)
    dtype: DType = "uint16" if tokenizer.get_vocab_size() <= 2**16 else "uint32"
    train = ShardWriter(folder, "train", dtype, shard_tokens)
    held_out = ShardWriter(folder, "held_out", dtype, shard_tokens)
    documents = _WithText(data)
    for document, tokens in encode_documents(tokenizer, _reporting(documents, progress)):
        (held_out if is_held_out(document.text, data.held_out_fraction) else train).add(document, tokens)
    splits = Splits(train=train.finish(), held_out=held_out.finish())
    write_text(folder / TOKENIZER_FILE, tokenizer_json(tokenizer))
    progress(f"data: tokenised: {splits.train.tokens:,} tokens to train on, {splits.held_out.tokens:,} held out")
    return Manifest(
        format_version=FORMAT_VERSION,
        sources=sources,
        licence=data.licence,
        notice=notice,
        text_key=data.text_key,
        held_out_fraction=data.held_out_fraction,
        empty_documents=documents.n_empty,
        tokenizer=TokenizerRecord(
            kind=data.tokenizer.kind,
            vocab_size=tokenizer.get_vocab_size(),
            end_of_text=end_of_text(tokenizer),
            sha256=tokenizer_sha256(tokenizer),
        ),
        dtype=dtype,
        splits=splits,
    )


def _tokenizer(data: DataSource, progress: Callable[[str], None]) -> Tokenizer:
    """The tokenizer, trained (if at all) on nothing that is held out."""
    if data.tokenizer.kind == "bpe":
        progress(f"data: training a tokenizer of {data.tokenizer.vocab_size:,} tokens")
    texts = (document.text for document in _WithText(data))
    return make_tokenizer(data.tokenizer, (text for text in texts if not is_held_out(text, data.held_out_fraction)))


class _WithText:
    """The documents of a corpus that have any text; counts those that have none."""

    def __init__(self, data: DataSource) -> None:
        self._data = data
        self.n_empty = 0

    def __iter__(self) -> Iterator[Document]:
        for document in read_documents(self._data.source, self._data.text_key):
            if document.text:
                yield document
            else:
                self.n_empty += 1


def _reporting(documents: _WithText, progress: Callable[[str], None]) -> Iterator[Document]:
    """The same documents, with a line about them every second."""
    n_bytes, begin = 0, time.monotonic()
    next_report = begin + 1
    for n_documents, document in enumerate(documents, start=1):
        yield document
        n_bytes += len(document.text.encode())
        if (now := time.monotonic()) >= next_report:
            megabytes = n_bytes / 1e6
            progress(
                f"data: {n_documents:,} documents, {megabytes:.1f} MB of text, {megabytes / (now - begin):.1f} MB/s"
            )
            next_report = now + 1


def _sources(source: Path) -> tuple[SourceFile, ...]:
    """The files of the corpus with their sizes and hashes."""
    records = []
    for file in corpus_files(source):
        try:
            record = SourceFile(file=file.name, bytes=file.path.stat().st_size, sha256=sha256_of_file(file.path))
        except OSError as error:
            raise InputError(
                f"{file.path}: cannot read ({error.strerror}); check the file and its permissions"
            ) from None
        records.append(record)
    return tuple(records)


def _notice(source: Path) -> str | None:
    """The NOTICE that lies in the corpus's folder, if there is one."""
    path = (source if source.is_dir() else source.parent) / "NOTICE"
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None


def _refuse_differences(
    folder: Path, manifest: Manifest, data: DataSource, sources: tuple[SourceFile, ...], notice: str | None
) -> None:
    """Data that were made of something else stay: the user decides."""
    pairs = {
        "data.text_key": (manifest.text_key, data.text_key),
        "data.held_out_fraction": (manifest.held_out_fraction, data.held_out_fraction),
        "data.licence": (manifest.licence, data.licence),
        "data.tokenizer.kind": (manifest.tokenizer.kind, data.tokenizer.kind),
        "data.tokenizer.vocab_size": (manifest.tokenizer.vocab_size, data.tokenizer.vocab_size),
    }
    differences = [f"{key} was {was!r} and is {now!r}" for key, (was, now) in pairs.items() if was != now]
    if manifest.notice != notice:
        differences.append("the text of NOTICE has changed")
    was_there = {source.file: source for source in manifest.sources}
    is_there = {source.file: source for source in sources}
    for name in sorted(was_there.keys() | is_there.keys()):
        was_file, is_file = was_there.get(name), is_there.get(name)
        if was_file is None or is_file is None:
            differences.append(f"source file {name} {'is new' if was_file is None else 'is gone'}")
        elif was_file != is_file:
            differences.append(
                f"source file {name} has changed (was {was_file.bytes} bytes, SHA-256 {was_file.sha256[:12]}..., "
                f"is {is_file.bytes} bytes, {is_file.sha256[:12]}...)"
            )
    if differences:
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise InputError(
            f"{folder}: holds data made of something else: {'; '.join(differences[:10])}{more}. "
            f"Use another --runs folder, or delete {folder} to make the data anew"
        )


def _check_files(folder: Path, manifest: Manifest) -> None:
    check_sizes(folder, manifest)
    path = folder / TOKENIZER_FILE
    if not path.is_file() or sha256_of_file(path) != manifest.tokenizer.sha256:
        raise WorkError(f"{path}: missing or changed since it was written; delete {folder} and prepare the data again")


def _refuse_too_few(manifest: Manifest, data: DataSource) -> None:
    """Both sides must hold one sample: context_length tokens and the one after them."""
    train, held_out = manifest.splits.train, manifest.splits.held_out
    needed = data.context_length + 1
    if held_out.documents == 0 or train.documents == 0:
        n_documents = train.documents + held_out.documents
        side, remedy = ("training", "lower") if train.documents == 0 else ("held-out", "raise")
        raise FamilyError(
            f"data.held_out_fraction = {data.held_out_fraction}: of {n_documents} documents in {data.source} none "
            f"falls on the {side} side; {remedy} it, or give more documents (a .txt file is one)"
        )
    for side, split in {"training": train, "held-out": held_out}.items():
        if split.tokens < needed:
            raise FamilyError(
                f"data.context_length = {data.context_length}: longer than the {side} data of {data.source}, "
                f"{split.tokens} tokens; use {max(8, split.tokens - 1)} or less, or give more text"
            )


def _sweep(folder: Path) -> None:
    """Removes what an unfinished preparation left: our files without a manifest, and the folder if that empties it."""
    try:
        if folder.is_dir() and not manifest_path(folder).exists():
            for path in folder.iterdir():
                if _OUR_FILES.fullmatch(path.name):
                    path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise WorkError(f"{folder}: cannot clean up ({error.strerror}); check its permissions and run again") from None
