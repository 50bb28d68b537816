"""What readers cut files into: documents not decoded yet, and what could not be read."""

from typing import NamedTuple

from isoflop.errors import InputError

MAX_DOCUMENT_BYTES = 2**26
"""The longest line, text file or parquet value that is read: 64 MiB, some 15 million tokens."""

FILE_IS_DONE = -1


class Position(NamedTuple):
    """A place in a corpus: reading goes on in file number `file` at `offset`, which is document `number` of it.

    Offsets count bytes of the decompressed file, or rows where a format has rows.
    """

    file: int = 0
    offset: int = 0
    number: int = 0


class Record(NamedTuple):
    """A document as it lies in its file. Without a domain of its own, `content` is a line of JSON; else plain text.

    `end` is the offset of what follows.
    """

    file: int
    offset: int
    number: int
    end: int
    content: bytes
    domain: str | None


class Fault(NamedTuple):
    """What could not be read. With `rest_of_file`, nothing after it in that file was.

    `reason` says it all but the file's name. `end` is the offset of what follows, or FILE_IS_DONE.
    """

    file: int
    offset: int
    number: int
    end: int
    reason: str
    rest_of_file: bool = False


def after(item: Record | Fault) -> Position:
    """Where reading goes on after it."""
    if item.end == FILE_IS_DONE:
        return Position(item.file + 1)
    return Position(item.file, item.end, item.number)


class FaultLimit:
    """Decides when what cannot be read is too much.

    A file that breaks off counts for as many documents as were read from it: nobody knows what was in the rest.
    """

    # A corpus that is not what the family file says (a wrong text_key) is told at once, not after hours.
    _EARLY_DOCUMENTS = 1000

    def __init__(self, allowed: float, addresses: list[str]) -> None:
        self._allowed = allowed
        self._addresses = addresses
        self._documents = 0
        self._by_file: dict[int, int] = {}
        self._lost = 0
        self._first: Fault | None = None
        self._n_faults = 0

    def add(self, documents: dict[int, int], faults: list[Fault]) -> None:
        """Counts documents that were read, by file, and the faults met among them.

        Raises:
            InputError: of the first thousand or more documents, over half cannot be read.
        """
        for file, count in documents.items():
            self._documents += count
            self._by_file[file] = self._by_file.get(file, 0) + count
        for fault in faults:
            self._first = self._first or fault
            self._n_faults += 1
            self._lost += max(1, self._by_file.get(fault.file, 0)) if fault.rest_of_file else 1
        if self._documents + self._lost >= self._EARLY_DOCUMENTS and self._lost > max(self._allowed, 0.5) * (
            self._documents + self._lost
        ):
            self._refuse()

    def decide(self) -> None:
        """To be called when the corpus is read.

        Raises:
            InputError: a larger share than allowed cannot be read; it names the first.
        """
        if self._lost > self._allowed * (self._documents + self._lost):
            self._refuse()

    def _refuse(self) -> None:
        first = self._first
        assert first is not None
        total = self._documents + self._lost
        more = f", and {self._n_faults - 1:,} more faults" if self._n_faults > 1 else ""
        raise InputError(
            f"{self._addresses[first.file]}: {first.reason}{more} ({self._lost / total:.2%} of the documents; "
            f"data.faults_allowed = {self._allowed:g} leaves out that share and lists them in the manifest)"
        )
