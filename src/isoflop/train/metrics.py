"""metrics.jsonl: a line a step, never two for the same."""

import json
import os
from pathlib import Path
from typing import Any

from isoflop.durable import cannot_write, to_json, write_bytes


class Metrics:
    """Appends lines; opened at the step that training goes on from, later and torn lines of the past are dropped."""

    def __init__(self, path: Path, steps_done: int) -> None:
        if path.exists():
            kept = _lines_until(path.read_bytes(), steps_done)
            write_bytes(path, kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)

    def write(self, line: dict[str, Any]) -> None:
        """One line, in the file when this returns.

        Raises:
            WorkError: the disk is full or cannot be written.
        """
        try:
            self._file.write(to_json(line, indent=None).encode() + b"\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def sync(self) -> None:
        """On the disk when this returns: called before a checkpoint that says these steps are done."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def _lines_until(content: bytes, steps_done: int) -> bytes:
    kept = []
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict) or record.get("step", 0) > steps_done:
            break
        kept.append(line)
    return b"".join(kept)
