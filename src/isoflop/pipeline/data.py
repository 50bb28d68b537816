"""The family's data: a look at the corpus before anything is written, then tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.config import DataSource, Family
from isoflop.errors import FamilyError, InputError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener

if TYPE_CHECKING:
    from isoflop.data import Manifest

_UNCOMPRESSED = (".txt", ".jsonl")


def prepare_data(family: Family, folder: RunFolder, listener: Listener) -> "Manifest":
    """The manifest of the family's tokens, made if they are missing. A failure leaves nothing behind.

    Raises:
        InputError: the corpus cannot be read or is too small, or the folder holds data made of something else.
        WorkError: the disk is full, or what the folder holds is damaged.
    """
    from isoflop.data import prepare

    check_corpus(family.data)
    return prepare(family.data, folder.data, listener.note)


def check_corpus(data: DataSource) -> None:
    """What can be said against a corpus without reading it.

    Raises:
        InputError: nothing is there, a format is unknown, or the context is longer than all its text.
    """
    from isoflop.data.readers import corpus_files

    files = [file.path for file in corpus_files(data.source)]
    if not all(path.name.lower().endswith(_UNCOMPRESSED) for path in files):
        return
    # A byte-level tokenizer makes at most one token a byte, and one more ends a document.
    most = sum(_size(path) for path in files) + len(files)
    if most == len(files):
        raise InputError(f"{data.source}: no document has any text; give a corpus with text in it")
    if most <= data.context_length:
        raise FamilyError(
            f"data.context_length = {data.context_length}: longer than all text in {data.source}, "
            f"at most {most} tokens; use less, or give more text"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); check the file and its permissions") from None
