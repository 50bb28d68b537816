"""Compressed files as streams of bytes in bounded memory, which tell a truncated file from a finished one.

The stream readers of zstandard and gzip end a truncated frame like a whole one, or hold what a bomb expands to; hence
these classes.
"""

import io
import zlib
from typing import Any, BinaryIO

import zstandard

# A zstd block of 4 bytes can stand for 128 KiB, so 2 KiB of input expand to 64 MiB at most before they are looked at.
_PIECE_BYTES = 2048
_GZIP_OUTPUT_BYTES = 2**20
_FREE_BYTES = 2**26


class DamageError(Exception):
    """The rest of a file cannot be read; the message says why and where, without the file's name."""


class _Decompressed(io.RawIOBase):
    """The decompressed bytes of all frames of `file`; wrap it in `io.BufferedReader` to read lines.

    Raises (while reading):
        DamageError: a frame is damaged or cut short, or expands like a bomb.
    """

    format = ""
    # Text shrinks 3 to 10 times, a corpus of repetitions perhaps 100 times. What goes beyond this is not text.
    most_expansion = 1000

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._in_frame = False
        self._unread = b""  # compressed bytes that are read and not yet decompressed
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
                if self._in_frame or self._taken_bytes == 0:
                    raise DamageError(
                        f"the {self.format} data stop in the middle, at byte {self._taken_bytes}; "
                        "fetch or compress the file again"
                    )
                return 0
            self._ready = memoryview(self._decompress(piece))
        n_bytes = min(len(target), len(self._ready))
        target[:n_bytes] = self._ready[:n_bytes]
        self._ready = self._ready[n_bytes:]
        return n_bytes

    def _decompress(self, piece: bytes) -> bytes:
        made, self._unread, self._in_frame = self._decoded(piece)
        self._taken_bytes += len(piece) - len(self._unread)
        self._made_bytes += len(made)
        if self._made_bytes > self.most_expansion * self._taken_bytes + _FREE_BYTES:
            raise DamageError(
                f"expands over {self.most_expansion}-fold by byte {self._taken_bytes}, which no text does; "
                "check where the file comes from, or give it decompressed"
            )
        return made

    def _decoded(self, piece: bytes) -> tuple[bytes, bytes, bool]:
        """What `piece` decompresses to, the part of it not yet used, and whether a frame goes on after it."""
        raise NotImplementedError

    def _damaged(self, reason: str) -> DamageError:
        return DamageError(
            f"damaged {self.format} data near byte {self._taken_bytes} ({reason}); fetch or compress the file again"
        )


class ZstdStream(_Decompressed):
    """A zstd file; a frame that needs a window above 128 MiB counts as damaged."""

    format = "zstd"

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()

    def _decoded(self, piece: bytes) -> tuple[bytes, bytes, bool]:
        if not self._in_frame:
            self._frame = self._decompressor.decompressobj()
        try:
            made = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise self._damaged(str(error).removeprefix("zstd decompressor error: ")) from None
        if self._frame.eof:
            return made, self._frame.unused_data, False
        return made, b"", True


class GzipStream(_Decompressed):
    """A gzip file of one member or many; zlib checks length and CRC of each."""

    format = "gzip"
    most_expansion = 500  # the format itself ends at 1032

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._member = zlib.decompressobj(wbits=31)

    def _decoded(self, piece: bytes) -> tuple[bytes, bytes, bool]:
        if not self._in_frame:
            self._member = zlib.decompressobj(wbits=31)
            if self._taken_bytes and not piece.strip(b"\0"):
                return b"", b"", False  # zeros after the last member: tapes and some tools pad with them
        try:
            made = self._member.decompress(piece, _GZIP_OUTPUT_BYTES)
        except zlib.error as error:
            raise self._damaged(str(error).rpartition(": ")[2]) from None
        if self._member.eof:
            return made, self._member.unused_data, False
        return made, self._member.unconsumed_tail, True
