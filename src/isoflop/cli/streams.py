"""Standard output and error that no reader, locale or closed pipe can break."""

import io
import os
import sys
from typing import Any, TextIO, cast

from isoflop.durable import to_json


def guard_streams() -> None:
    """Replaces sys.stdout and sys.stderr by guarded ones: a reader that goes away ends no training."""
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def let_go_streams() -> None:
    """Flushes both; what cannot be written is dropped, or Python would complain of it once more while it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            cast(_Guarded, stream).let_go()


def print_json(document: Any) -> None:
    """Prints one JSON document, UTF-8 in every locale."""
    # A path that is no UTF-8 holds lone surrogates; their \udc80 is as good in JSON as in Python.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    print(to_json(document))


def _guarded(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by whoever started us
        stream = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, _Guarded(stream))


class _Guarded:
    """A text stream that goes on into nothing once its reader is gone; in all else the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.let_go()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.let_go()

    def let_go(self) -> None:
        """Sends what is still written into nothing."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
