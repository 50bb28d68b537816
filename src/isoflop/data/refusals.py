"""What speaks against data that are there or about to be: made of something else, or too little for the family."""

from pathlib import Path

from isoflop.config import DataSource
from isoflop.data.manifest import Counts, Manifest, Preparation, SourceFile
from isoflop.errors import FamilyError, InputError


def refuse_differences(
    folder: Path,
    manifest: Manifest,
    data: DataSource,
    preparation: Preparation,
    sources: tuple[SourceFile, ...],
    notice: str | None,
) -> None:
    """Data that were made of something else stay: the user decides.

    Raises:
        InputError: `folder` holds such data; it names the first differences.
    """
    was, now = manifest.preparation.model_dump(), preparation.model_dump()
    # How the work was cut does not change what a sample is.
    pairs = {f"data.{key}": (was[key], now[key]) for key in was if key not in ("chunk_bytes", "faults_allowed")}
    pairs |= {
        "data.licence": (manifest.licence, data.licence),
        "data.tokenizer.kind": (manifest.tokenizer.kind, data.tokenizer.kind),
        "data.tokenizer.vocab_size": (manifest.tokenizer.vocab_size, data.tokenizer.vocab_size),
    }
    differences = [
        f"{key} was {before!r} and is {after!r}" for key, (before, after) in pairs.items() if before != after
    ]
    if data.tokenizer.kind == "file":
        from isoflop.data.tokenizer import make_tokenizer, tokenizer_sha256

        if tokenizer_sha256(make_tokenizer(data.tokenizer, ())) != manifest.tokenizer.sha256:
            differences.append(f"{data.tokenizer.path} is another tokenizer")
    if manifest.notice != notice:
        differences.append("the text of NOTICE has changed")
    differences += _changed_files(manifest.sources, sources)
    if differences:
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise InputError(
            f"{folder}: holds data made of something else: {'; '.join(differences[:10])}{more}. "
            f"Use another --runs folder, or delete {folder} to make the data anew"
        )


def _changed_files(before: tuple[SourceFile, ...], after: tuple[SourceFile, ...]) -> list[str]:
    was_there = {source.file: source for source in before}
    is_there = {source.file: source for source in after}
    differences = []
    for name in sorted(was_there.keys() | is_there.keys()):
        was_file, is_file = was_there.get(name), is_there.get(name)
        if was_file is None or is_file is None:
            differences.append(f"source file {name} {'is new' if was_file is None else 'is gone'}")
        elif (was_file.bytes, was_file.sha256) != (is_file.bytes, is_file.sha256):
            differences.append(
                f"source file {name} has changed (was {was_file.bytes} bytes, SHA-256 {was_file.sha256[:12]}..., "
                f"is {is_file.bytes} bytes, {is_file.sha256[:12]}...)"
            )
    return differences


def refuse_one_side(data: DataSource, train: int, held_out: int) -> None:
    """Both sides must hold a document.

    Raises:
        FamilyError: one does not.
    """
    if held_out == 0 or train == 0:
        side, remedy = ("training", "lower") if train == 0 else ("held-out", "raise")
        raise FamilyError(
            f"data.held_out_fraction = {data.held_out_fraction}: of {train + held_out} documents in {data.source} none "
            f"falls on the {side} side; {remedy} it, or give more documents (a .txt file is one)"
        )


def refuse_too_few(data: DataSource, train: Counts, held_out: Counts) -> None:
    """Both sides must hold a document, and one sample: context_length tokens and the one after them.

    Raises:
        FamilyError: one does not.
    """
    needed = data.context_length + 1
    refuse_one_side(data, train.documents, held_out.documents)
    for side, split in {"training": train, "held-out": held_out}.items():
        if split.tokens < needed:
            raise FamilyError(
                f"data.context_length = {data.context_length}: longer than the {side} data of {data.source}, "
                f"{split.tokens} tokens; use {max(8, split.tokens - 1)} or less, or give more text"
            )


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
