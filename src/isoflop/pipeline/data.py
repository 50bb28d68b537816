"""The family's data: a look at the corpus before anything is written, then tokens."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.config import DataSource, Family
from isoflop.errors import FamilyError, InputError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.data.corpus import CorpusFile


def prepare_data(
    family: Family, folder: RunFolder, listener: Listener, workers: int | None = None, anew: bool = False
) -> "Manifest":
    """The manifest of the family's tokens, made if they are missing; what is there is checked to the byte.

    Files that were hashed before and not touched since are not read again, unless `anew` asks for it.

    Raises:
        InputError: the corpus cannot be read or is too small, or the folder holds data made of something else.
        WorkError: the disk is full, or a byte of what the folder holds has changed.
    """
    from isoflop.data import prepare, verify

    check_corpus(family.data, folder)
    prepare(family.data, folder.data, listener.note, workers=workers, anew=anew)
    return verify(folder.data, anew)


def prepare_part_of(
    family: Family, folder: RunFolder, listener: Listener, part: int, n_parts: int, workers: int | None = None
) -> None:
    """One part of several of the work that `prepare_data` then puts together. Parts may be done at once.

    Raises:
        InputError: as `prepare_data`; or the family asks for what needs the corpus as a whole.
        WorkError: the disk is full, or another process works on the part.
    """
    from isoflop.data import prepare_part

    check_corpus(family.data, folder)
    prepare_part(family.data, folder.data, listener.note, part, n_parts, workers=workers)
    listener.note(f"data: part {part} of {n_parts} is done; when all are, run isoflop data without --part")


def parse_part(text: str) -> tuple[int, int]:
    """(part, parts) of "I/N".

    Raises:
        InputError: it is not of that form, or I is not below N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"--part {text}: give I/N with I from 0 to N - 1, as in 0/8")
    return int(found[1]), int(found[2])


def check_corpus(data: DataSource, folder: RunFolder, to_train: bool = True) -> None:
    """What a moment tells against a corpus, by its files and, while nothing is prepared, by its first documents.

    A plan may be made of a corpus that is too small to be split, if it is not `to_train`. Tokens that are prepared do
    without their corpus.

    Raises:
        InputError: nothing is there, a format is unknown, the first documents cannot be read, the tokenizer's file or
            the tasks cannot be used, or the context is longer than all text.
    """
    from isoflop.data.corpus import corpus_files
    from isoflop.data.glance import glance
    from isoflop.data.manifest import can_do_without

    if can_do_without(data, folder.data):
        return
    files = corpus_files(data)
    _refuse_short_text(data, files)
    if not (folder.data / "manifest.json").exists():
        glance(data, files, to_train)


def _refuse_short_text(data: DataSource, files: "Sequence[CorpusFile]") -> None:
    if not all(file.name.lower().endswith((".jsonl", *data.text_suffixes)) for file in files):
        return
    # A byte-level tokenizer makes at most one token a byte, and one more ends a document.
    most = sum(file.bytes for file in files) + len(files)
    if most == len(files):
        raise InputError(f"{data.source}: no document has any text; give a corpus with text in it")
    if most <= data.context_length:
        raise FamilyError(
            f"data.context_length = {data.context_length}: longer than all text in {data.source}, "
            f"at most {most} tokens; use less, or give more text"
        )
