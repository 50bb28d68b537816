"""A zstd file as a stream of bytes in bounded memory, which tells a truncated file from a finished one."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from isoflop.errors import InputError

# A zstd block of 4 bytes can stand for 128 KiB, so 2 KiB of input expand to 64 MiB at most before they are looked at.
_PIECE_BYTES = 2048
# Text shrinks 3 to 10 times, a corpus of repetitions perhaps 100 times. What goes beyond 1000 is not text.
_MOST_EXPANSION = 1000
_FREE_BYTES = 2**26


class ZstdStream(io.RawIOBase):
    """The decompressed bytes of all frames of `file`; wrap it in `io.BufferedReader` to read lines.

    zstandard's own stream reader ends a truncated frame like a whole one, hence this class.

    Raises (while reading):
        InputError: a frame is damaged or cut short, needs a window above 128 MiB, or expands like a bomb.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._in_frame = False
        self._unread = b""  # compressed bytes after the end of a frame
        self._ready = memoryview(b"")  # decompressed bytes that nobody has taken yet
        self._taken_bytes = 0
        self._made_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            piece = self._unread or self._file.read(_PIECE_BYTES)
            if not piece:
                self._refuse_truncation()
                return 0
            self._ready = memoryview(self._decompress(piece))
        n_bytes = min(len(target), len(self._ready))
        target[:n_bytes] = self._ready[:n_bytes]
        self._ready = self._ready[n_bytes:]
        return n_bytes

    def _decompress(self, piece: bytes) -> bytes:
        if not self._in_frame:
            self._frame = self._decompressor.decompressobj()
        try:
            made = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            reason = str(error).removeprefix("zstd decompressor error: ")
            raise InputError(
                f"{self._path}: damaged zstd data near byte {self._taken_bytes} ({reason}); "
                "fetch or compress the file again"
            ) from None
        self._in_frame = not self._frame.eof
        self._unread = self._frame.unused_data if self._frame.eof else b""
        self._taken_bytes += len(piece) - len(self._unread)
        self._made_bytes += len(made)
        if self._made_bytes > _MOST_EXPANSION * self._taken_bytes + _FREE_BYTES:
            raise InputError(
                f"{self._path}: expands over {_MOST_EXPANSION}-fold by byte {self._taken_bytes}, which no text does; "
                "check where the file comes from, or give it decompressed"
            )
        return made

    def _refuse_truncation(self) -> None:
        if self._in_frame or self._taken_bytes == 0:
            raise InputError(
                f"{self._path}: the zstd data stop in the middle, at byte {self._taken_bytes}; "
                "fetch or compress the file again"
            )
