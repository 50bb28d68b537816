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
# Each holds a log's text and its columns; it is parsed in blocks of so many bytes.
MOST_THREADS, BLOCK = 8, 2**22
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
    """(lines, columns) of the lines that are JSON objects with tokens: at once where all are alike, else one by one."""
    if not text or text.isspace():
        return np.empty((0, len(COLUMNS)))
    rows = _rows_alike(text)
    if rows is None:
        found = [row for line in text.split(b"\n") if (row := _row(line)) is not None]
        return np.array(found, dtype=float).reshape(-1, len(COLUMNS))
    rows[~(np.abs(rows) < 1e300)] = np.nan
    return np.asarray(rows[rows[:, 0] > 0])


def _rows_alike(text: bytes) -> Array | None:
    """(lines, columns) of lines that have the first one's keys in its order, as training writes them; None of others.

    They are read as comma-separated values, each behind its key: twice as fast as by a reader of JSON. Lines with more
    keys or fewer, as a step with a dead layer has, are read one by one.
    """
    from pyarrow import ArrowInvalid, BufferReader, binary, compute, csv, float64, string

    first = text[: text.find(b"\n")].split(b",")
    keys = [part.partition(b": ")[0] + b": " for part in first]
    places = {key.strip(b' {:"').decode(errors="replace"): str(i) for i, key in enumerate(keys)}
    read = {name: places[name] for name in COLUMNS if name in places}
    last = str(len(keys) - 1)
    if "tokens" not in read or last in read.values() or b"\n\n" in text:  # an empty line would count as none
        return None
    others: list[tuple[int, tuple[float, ...]]] = []

    def aside(row: Any) -> str:
        found = _row(row.text)
        # In the order of lines: before how many of the others it stands.
        others.extend([] if found is None else [(row.number - 1 - len(others), found)])
        return "skip" if found is not None else "error"

    try:
        table = csv.read_csv(
            BufferReader(text),
            csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=list(map(str, range(len(keys))))),
            csv.ParseOptions(quote_char=False, double_quote=False, invalid_row_handler=aside),
            csv.ConvertOptions(
                column_types=dict.fromkeys(places.values(), binary()), include_columns=[*read.values(), last]
            ),
        )
        whole = compute.all(compute.ends_with(table[last], b"}")).as_py()
        rows = np.full((table.num_rows, len(COLUMNS)), np.nan)
        for name, place in read.items():
            key = keys[int(place)]
            whole = whole and compute.all(compute.starts_with(table[place], key)).as_py()
            values = compute.binary_replace_slice(table[place], 0, len(key), b"").cast(string()).cast(float64())
            # Arrow's own `to_numpy` would import pandas where that is installed.
            rows[:, COLUMNS.index(name)] = np.concatenate([np.empty(0), *map(np.from_dlpack, values.chunks)])
    except ArrowInvalid:
        return None
    if not whole:
        return None
    return np.insert(rows, [place for place, _ in others], [row for _, row in others], axis=0) if others else rows


def _row(line: str | bytes) -> tuple[float, ...] | None:
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
