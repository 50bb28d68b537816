"""metrics.jsonl: a line a step, never two for the same."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isoflop.durable import SealedLines, cannot_write, write_bytes


class Metrics:
    """Appends lines; opened at the step that training goes on from, later and torn lines of the past are dropped.

    Lines that have changed since they were written are dropped too; `on_event` hears of them and of missing ones.
    """

    def __init__(self, path: Path, steps_done: int, on_event: Callable[[str], None]) -> None:
        self._path, self._seals = path, SealedLines(path)
        kept: list[dict[str, Any]] = []
        if path.exists():
            content = path.read_bytes()
            kept = _until(self._seals.intact(content[: content.rfind(b"\n") + 1]), steps_done)
        lost = steps_done - len(kept)
        if lost:
            first = self._seals.first_damaged
            changed = f", line {first} on" if first else ""
            on_event(f"{path}: of {lost} steps the lines are gone or have changed{changed}; the curves lack them")
        self._seals = SealedLines(path)
        if path.exists():
            write_bytes(path, [self._seals.seal(line) for line in kept])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)

    def write(self, line: dict[str, Any]) -> None:
        """One line, in the file when this returns.

        Raises:
            WorkError: the disk is full or cannot be written.
        """
        try:
            self._file.write(self._seals.seal(line))
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def sync(self) -> None:
        """On the disk when this returns: called before a checkpoint that says these steps are done."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def _until(content: bytes, steps_done: int) -> list[dict[str, Any]]:
    """The lines of the steps done, each once: a file may hold itself twice."""
    kept: dict[int, dict[str, Any]] = {}
    for line in content.splitlines():
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, TypeError, KeyError):
            break
        if step > steps_done:
            break
        record.pop("crc", None)
        kept.setdefault(step, record)
    return list(kept.values())
