"""How much memory the record batches of an Arrow file take, told by their headers before any is read.

An Arrow file is a row of messages (arrow.apache.org/docs/format/Columnar.html, "Encapsulated message format"): four
bytes of ones (older files have none), the size of the header, the header (a FlatBuffer), and a body of buffers. A
compressed buffer begins with its size when decompressed, which its reader allocates unseen.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

from isoflop.data.decompression import DamageError

MAX_BATCH_BYTES = 2**30
"""The most that one record batch may take in memory; `datasets` writes a thousand rows in one."""

_MAX_HEADER_BYTES = 2**26
_FILE_MAGIC = b"ARROW1\0\0"
_CONTINUES = 0xFFFFFFFF
# Numbers of fields in the format's Message.fbs, and of the kinds of header there.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DICTIONARY_DATA = 1
_BUFFERS, _COMPRESSION = 2, 3


def begin_of_messages(stream: BinaryIO) -> int:
    """Where the messages begin: the random-access form has eight bytes before them, the streaming form has none."""
    is_file_form = stream.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    return len(_FILE_MAGIC) if is_file_form else 0


def checked_batches(stream: BinaryIO) -> Iterator[Literal[True]]:
    """Goes from one record batch to the next whose header says that it may be read.

    Raises:
        DamageError: a batch takes more than `MAX_BATCH_BYTES`, or its header cannot be read.
    """
    at, number = begin_of_messages(stream), 0
    while True:
        stream.seek(at)
        size = _u32(stream.read(4))
        begin = at + 4
        if size == _CONTINUES:
            size, begin = _u32(stream.read(4)), at + 8
        if not size:
            return
        if size > _MAX_HEADER_BYTES:
            raise _too_large(f"the header of what follows record batch {number}", size)
        try:
            kind, body_bytes, buffers = _read(_Table.root(stream.read(size)))
        except (struct.error, OverflowError) as error:
            raise DamageError(f"cannot be read as arrow ({error}); fetch or write the file again") from None
        number += kind == _RECORD_BATCH
        what = f"record batch {number}" if kind == _RECORD_BATCH else f"what follows record batch {number}"
        body = begin + size
        taken = body_bytes
        for offset in buffers:
            stream.seek(body + offset)
            taken += max(0, struct.unpack("<q", stream.read(8).ljust(8, b"\0"))[0])  # -1: this one is not compressed
        if taken > MAX_BATCH_BYTES:
            raise _too_large(what, taken)
        at = body + body_bytes
        if kind == _RECORD_BATCH:
            yield True


class _Table:
    """A table of a FlatBuffer: fields by number, wherever they lie."""

    def __init__(self, buffer: bytes, at: int) -> None:
        self._buffer = buffer
        self._at = at

    @classmethod
    def root(cls, buffer: bytes) -> "_Table":
        return cls(buffer, struct.unpack_from("<I", buffer, 0)[0])

    def field(self, number: int) -> int | None:
        """Where the field lies; None if it has its default."""
        [back] = struct.unpack_from("<i", self._buffer, self._at)
        table = self._at - back
        [size] = struct.unpack_from("<H", self._buffer, table)
        if 4 + 2 * number >= size:
            return None
        [offset] = struct.unpack_from("<H", self._buffer, table + 4 + 2 * number)
        return self._at + offset if offset else None

    def number(self, number: int, form: str) -> int:
        at = self.field(number)
        return 0 if at is None else int(struct.unpack_from(form, self._buffer, at)[0])

    def table(self, number: int) -> "_Table":
        at = self.field(number)
        if at is None:
            raise struct.error(f"no field {number} in a header")
        return _Table(self._buffer, at + int(struct.unpack_from("<I", self._buffer, at)[0]))

    def offsets_of_buffers(self, number: int) -> Iterator[int]:
        """Of a vector of (offset, length) of buffers, the offsets of those that hold something."""
        at = self.field(number)
        if at is None:
            return
        at += int(struct.unpack_from("<I", self._buffer, at)[0])
        [count] = struct.unpack_from("<I", self._buffer, at)
        for index in range(count):
            offset, length = struct.unpack_from("<qq", self._buffer, at + 4 + 16 * index)
            if length:
                yield offset


def _read(message: _Table) -> tuple[int, int, list[int]]:
    """(kind, bytes of its body, offsets of its compressed buffers in the body) of a message."""
    kind, body_bytes = message.number(_HEADER_TYPE, "<B"), message.number(_BODY_LENGTH, "<q")
    if body_bytes < 0:
        raise struct.error("a body of negative length")
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return kind, body_bytes, []
    header = message.table(_HEADER)
    batch = header.table(_DICTIONARY_DATA) if kind == _DICTIONARY_BATCH else header
    if batch.field(_COMPRESSION) is None:
        return kind, body_bytes, []
    offsets = list(batch.offsets_of_buffers(_BUFFERS))
    if any(not 0 <= offset <= body_bytes for offset in offsets):
        raise struct.error("a buffer outside its body")
    return kind, body_bytes, offsets


def _u32(four: bytes) -> int:
    return int.from_bytes(four, "little") if len(four) == 4 else 0


def _too_large(what: str, size: int) -> DamageError:
    return DamageError(
        f"{what} takes {size} bytes of memory, more than {MAX_BATCH_BYTES}; write the file with smaller batches"
    )
