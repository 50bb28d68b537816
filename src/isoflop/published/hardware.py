"""Systems that other people train on: rates and bandwidths, each row with its source."""

import csv
import io
import math
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from isoflop.errors import InputError, WorkError
from isoflop.given import csv_text

HARDWARE_FILE = "hardware.csv"


@dataclass(frozen=True)
class PublishedHardware:
    """One kind of system; the fields are those of `isoflop.recipe.Hardware`, None where the row leaves one empty."""

    name: str
    peak_flops_per_second: float | None
    flops_per_second: float | None
    memory_bytes: float | None
    memory_bytes_per_second: float | None
    link_bytes_per_second: float | None
    store_bytes_per_second: float | None
    devices_per_node: int
    node_bytes_per_second: float
    node_latency_seconds: float
    network_bytes_per_second: float
    network_latency_seconds: float
    source: str


def published_hardware() -> list[PublishedHardware]:
    """The rows of this package's file, in their order.

    Raises:
        WorkError: the file was changed so that a row cannot be read.
    """
    with (files("isoflop.published") / HARDWARE_FILE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [_hardware(row) for row in rows]
    except ValueError as error:
        raise WorkError(f"isoflop/published/{HARDWARE_FILE}: {error}; install isoflop again") from None


def read_hardware(path: Path) -> list[PublishedHardware]:
    """The rows of a user's file with the same columns.

    Raises:
        InputError: the file or a row of it cannot be read.
    """
    try:
        rows = [_hardware(row) for row in csv.DictReader(io.StringIO(csv_text(path)))]
    except (ValueError, csv.Error) as error:
        columns = ", ".join(field.name for field in fields(PublishedHardware))
        raise InputError(f"{path}: {error}; it needs the columns {columns}") from None
    if not rows:
        raise InputError(f"{path}: holds no row; give a row for each kind of system")
    return rows


def _hardware(row: dict[str, Any]) -> PublishedHardware:
    values = {}
    for field in fields(PublishedHardware):
        text = (row.get(field.name) or "").strip()
        try:
            values[field.name] = _value(field.type, text)
        except ValueError:
            named = row.get("name") or "a row"
            raise ValueError(f"{field.name} of {named} is {text!r}, not a number above zero") from None
    return PublishedHardware(**values)


def _value(kind: Any, text: str) -> Any:
    if kind is str:
        if not text:
            raise ValueError
        return text
    if kind == float | None and not text:
        return None
    number = int(text) if kind is int else float(text)
    if not (math.isfinite(number) and number > 0):
        raise ValueError
    return number
