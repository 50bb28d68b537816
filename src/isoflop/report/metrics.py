"""The log of a training run, and curves thinned so that a page of long runs stays small."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COLUMNS = ("tokens", "loss", "tokens_per_second", "mfu", "lr")


@dataclass(frozen=True)
class Metrics:
    """Columns over steps; NaN where the log says null. `loss` in nats/token, `mfu` as a share of the matrix peak."""

    tokens: Array
    loss: Array
    tokens_per_second: Array
    mfu: Array
    lr: Array


def read_metrics(path: Path) -> Metrics | None:
    """The steps logged in a metrics.jsonl; None where there are none.

    Lines that are no JSON object are skipped: a kill tears the last one. Steps logged again after a resume replace
    those of before.
    """
    rows: list[tuple[float, ...]] = []
    try:
        with open(path, "rb") as file:
            for line in file:
                row = _row(line)
                if row is None:
                    continue
                while rows and rows[-1][0] >= row[0]:
                    rows.pop()
                rows.append(row)
    except OSError:
        return None
    return Metrics(*np.array(rows, dtype=float).T) if rows else None


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
