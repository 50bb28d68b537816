"""The log of a training run, and curves thinned so that a page of long runs stays small."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoflop.durable import SealedLines

Array = NDArray[np.float64]
# Each holds a log's text and its columns.
MOST_THREADS = 8
COLUMNS = ("tokens", "loss", "tokens_per_second", "mfu", "lr", "unreached")


@dataclass(frozen=True)
class Metrics:
    """Columns over steps; NaN where the log says null or nothing.

    `loss` is in nats/token, `mfu` a share of the matrix peak, `unreached` the number of matrices without any gradient.
    """

    tokens: Array
    loss: Array
    tokens_per_second: Array
    mfu: Array
    lr: Array
    unreached: Array


def read_metrics(path: Path) -> Metrics | None:
    """The steps logged in a metrics.jsonl; None where there are none.

    Lines that are no JSON object are skipped: a kill tears the last one; so are lines whose seal does not hold. Steps
    logged again after a resume replace those of before.
    """
    return MetricsLog(path).read()


class MetricsLog:
    """A metrics.jsonl that may be growing: reading it again parses what was added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = np.empty((0, len(COLUMNS)))
        self._file, self._read_bytes = 0, 0
        self._seals = SealedLines(path)

    def read(self) -> Metrics | None:
        """As `read_metrics`."""
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._read_bytes:
                    self._rows, self._file, self._read_bytes = self._rows[:0], status.st_ino, 0
                    self._seals = SealedLines(self._path)
                file.seek(self._read_bytes)
                added = file.read()
        except OSError:
            return None
        # The last line may be half written; it is read when it has its end, and now if it is whole without one.
        whole = added.rfind(b"\n") + 1
        if whole:
            self._rows = _last_logged(np.concatenate([self._rows, _rows(self._seals.intact(added[:whole]))]))
            self._read_bytes += whole
        rest = copy(self._seals).intact(added[whole:] + b"\n") if added[whole:] else b""
        rows = _last_logged(np.concatenate([self._rows, _rows(rest)]))
        return Metrics(*rows.T) if len(rows) else None

    @property
    def damage(self) -> str | None:
        """What is wrong with the lines read so far, in words; they are left out."""
        seals = self._seals
        if not seals.damaged:
            return None
        more = f" and {seals.damaged - 1} more" if seals.damaged > 1 else ""
        return f"line {seals.first_damaged}{more} changed since it was written"


def read_logs(paths: Sequence[Path], logs: dict[Path, MetricsLog]) -> dict[Path, Metrics | None]:
    """What is in each of these files, by those of `logs` that know them; new ones are added. On all cores: what takes
    the time, checksums and parsing, holds no lock of the interpreter.
    """
    found = [logs.setdefault(path, MetricsLog(path)) for path in paths]
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(MetricsLog.read, found), strict=True))


def _last_logged(rows: Array) -> Array:
    """Without the rows after which as many tokens, or fewer, were logged again: (steps, columns)."""
    if len(rows) == 0:
        return rows
    tokens = rows[:, 0]
    later = np.append(np.minimum.accumulate(tokens[::-1])[::-1][1:], np.inf)
    return np.asarray(rows[tokens < later])


def _rows(text: bytes) -> Array:
    """(lines, columns) of the lines that are JSON objects with tokens: at once where all are plain, else one by one."""
    if not text or text.isspace():
        return np.empty((0, len(COLUMNS)))
    from pyarrow import ArrowInvalid, BufferReader, field, float64, json, schema

    options = json.ParseOptions(
        explicit_schema=schema([field(name, float64()) for name in COLUMNS]), unexpected_field_behavior="ignore"
    )
    try:
        table = json.read_json(BufferReader(text), parse_options=options)
    except ArrowInvalid:
        found = [row for line in text.split(b"\n") if (row := _row(line)) is not None]
        return np.array(found, dtype=float).reshape(-1, len(COLUMNS))
    rows = np.stack([table.column(name).to_numpy() for name in COLUMNS], axis=1)
    rows[~(np.abs(rows) < 1e300)] = np.nan
    return np.asarray(rows[rows[:, 0] > 0])


def _row(line: bytes) -> tuple[float, ...] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    row = tuple(_number(document.get(name)) for name in COLUMNS)
    return row if row[0] > 0 else None


def _number(value: Any) -> float:
    # An integer of a thousand digits is JSON too; it is no float.
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else np.nan


def thinned(tokens: Array, loss: Array, points: int) -> tuple[Array, Array]:
    """At most `points` of the curve's points: the lowest and highest of each of `points` / 2 stretches of log tokens.

    Points whose loss is not finite are left out.
    """
    there = np.isfinite(loss)
    tokens, loss = tokens[there], loss[there]
    if len(tokens) <= points:
        return tokens, loss
    edges = np.geomspace(tokens[0], tokens[-1], points // 2 + 1)[1:-1]
    keep = set()
    for stretch in np.split(np.arange(len(tokens)), np.searchsorted(tokens, edges, side="right")):
        if len(stretch):
            keep |= {int(stretch[np.argmin(loss[stretch])]), int(stretch[np.argmax(loss[stretch])])}
    index = np.array(sorted(keep))
    return tokens[index], loss[index]


def smoothed(tokens: Array, loss: Array, points: int, width: float = 1.15) -> tuple[Array, Array]:
    """The curve's mean over tokens from t / width to t * width, at up to `points` steps t about even in log tokens."""
    there = np.isfinite(loss)
    tokens, loss = tokens[there], loss[there]
    if len(tokens) == 0:
        return tokens, loss
    # At steps, not between them: where steps are far apart in log tokens a window between two would give a staircase.
    steps = np.unique(np.searchsorted(tokens, np.geomspace(tokens[0], tokens[-1], points)).clip(max=len(tokens) - 1))
    begin = np.searchsorted(tokens, tokens[steps] / width, side="left")
    end = np.searchsorted(tokens, tokens[steps] * width, side="right")
    total = np.concatenate([[0.0], np.cumsum(loss)])
    return tokens[steps], (total[end] - total[begin]) / (end - begin)
