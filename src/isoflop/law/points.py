"""Training runs as a law sees them: size, tokens, loss, and the FLOPs with the convention they were counted by."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.errors import InputError
from isoflop.given import csv_text
from isoflop.recipe.flops import six_nd

SIX_ND = "6ND"
GIVEN = "given"
# Counted by this program, so that nothing of it is in other units.
COUNTED_HERE = "isoflop"
ALL, WITHOUT_EMBEDDINGS = "all", "without embeddings"
COLUMNS = ("params", "params_non_embedding", "tokens", "loss", "bits_per_byte", "flops", "run", "noise")
NEEDED = "params, tokens and loss (or bits_per_byte)"
_SMALL = ("loss", "bits_per_byte", "noise")
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Point:
    """One measured loss.

    `loss` is in nats/token or in bits/byte, the same for all points of a law. Points of one training run share `run`.
    `noise` is the run-to-run standard deviation of `loss`, in its unit, where known. `convention` says how `flops` was
    counted ("6ND", "isoflop", "given"), `counted_params` which parameters ("all", "without embeddings"): counts by two
    conventions do not belong on one axis.
    """

    params: float
    tokens: float
    loss: float
    flops: float
    run: str
    noise: float | None = None
    convention: str = GIVEN
    counted_params: str = ALL


def read_points(path: Path) -> list[Point]:
    """The points of a CSV file with columns params, tokens and loss (nats/token) or bits_per_byte. Without params,
    params_non_embedding takes its place.

    Optional columns: flops (default 6ND), run (default: each row its own), noise; others are ignored.

    Raises:
        InputError: the file cannot be read or a row cannot be used; the message names the row as a spreadsheet counts
            (the header is row 1).
    """
    reader = csv.DictReader(io.StringIO(csv_text(path)), strict=True)
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        counted = ALL
        if "params" not in header and "params_non_embedding" in header:
            counted, header[header.index("params_non_embedding")] = WITHOUT_EMBEDDINGS, "params"
        loss_column = _check_header(path, header)
        rows = [(reader.line_num, row) for row in reader if any(_cell(row, name) for name in header)]
    except csv.Error as error:
        raise InputError(
            f"{path}, row {reader.line_num}: not valid CSV ({error}); quote fields that hold commas"
        ) from None
    if not rows:
        raise InputError(f"{path}: no points under the header; give one row for each training run")
    convention = _convention(path, rows)
    points = []
    first: dict[tuple[str, ...], int] = {}
    for number, row in rows:
        # Without a run name, a row that repeats another is the same run given twice; `fit_law` says so.
        same = first.setdefault(tuple(_cell(row, name) for name in header), number)
        points.append(_point(f"{path}, row {number}", row, loss_column, convention, default_run=f"row {same}"))
        points[-1] = replace(points[-1], counted_params=counted)
    try:
        check_points(points)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return points


def bits_per_byte_per_loss(path: Path) -> float | None:
    """What turns the losses of `read_points(path)` into bits per byte: one where they are that, the rows' common ratio
    where both columns stand there (one tokenizer and text), None where it cannot be known."""
    reader = csv.DictReader(io.StringIO(csv_text(path)))
    header = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    if "bits_per_byte" not in header:
        return None
    if "loss" not in header:
        return 1.0
    try:
        ratios = [float(row["bits_per_byte"]) / float(row["loss"]) for row in reader if _cell(row, "loss")]
    except (ValueError, ZeroDivisionError):
        return None
    low, high = min(ratios, default=math.nan), max(ratios, default=math.nan)
    return (low + high) / 2 if 0 < low <= high < 1.01 * low else None


def check_points(points: Sequence[Point]) -> None:
    """Raises InputError unless a law can be fitted: finite positive numbers, 3 sizes, 3 budgets, one convention."""
    for number, point in enumerate(points, start=1):
        for name in ("params", "tokens", "loss", "flops", "noise"):
            value = getattr(point, name)
            if not (value is None and name == "noise") and not (math.isfinite(value) and value > 0):
                raise InputError(f"point {number} ({point.run}): {name} = {value}; give a finite number above 0")
    conventions = sorted({point.convention for point in points})
    if len(conventions) > 1:
        raise InputError(
            f"flops counted in different ways ({', '.join(conventions)}) do not mix; count all points one way"
        )
    counted = sorted({point.counted_params for point in points})
    if len(counted) > 1:
        raise InputError(
            f"params counted in different ways ({', '.join(counted)}) do not mix; count all points one way"
        )
    sizes = sorted({point.params for point in points})
    if len(sizes) < 3:
        shown = f" ({', '.join(f'{size:.10g}' for size in sizes)})" if sizes else ""
        raise InputError(f"{len(sizes)} distinct params{shown}; a law needs 3 or more: add runs of other sizes")
    budgets = budget_of([math.log(point.flops) for point in points])
    if max(budgets) < 2:
        raise InputError(f"{max(budgets) + 1} distinct flops; a law needs 3 or more: add runs of other budgets")


def budget_of(log_flops: Sequence[float]) -> list[int]:
    """The number of each point's budget, from 0 for the smallest; a budget is 5 % wide."""
    found = [0] * len(log_flops)
    budget, start = -1, -math.inf
    for i in sorted(range(len(log_flops)), key=lambda i: log_flops[i]):
        if log_flops[i] > start + math.log(1.05):
            budget, start = budget + 1, log_flops[i]
        found[i] = budget
    return found


def _check_header(path: Path, header: list[str]) -> str:
    """The column that holds the loss."""
    if not any(header):
        raise InputError(f"{path}: empty; the first row must name the columns {NEEDED}")
    doubled = [name for name in COLUMNS if header.count(name) > 1]
    if doubled:
        raise InputError(f"{path}, row 1: two columns are named {doubled[0]!r}; rename one")
    loss_column = "loss" if "loss" in header else "bits_per_byte"
    missing = [name for name in ("params", "tokens", loss_column) if name not in header]
    if missing:
        missing = ["loss (or bits_per_byte)" if name == "bits_per_byte" else name for name in missing]
        raise InputError(
            f"{path}, row 1: no column {', '.join(missing)}; there are {', '.join(filter(None, header))[:120]}; "
            f"needed are {NEEDED}, separated by commas"
        )
    return loss_column


def _convention(path: Path, rows: list[tuple[int, dict[str, str]]]) -> str:
    empty = [number for number, row in rows if not _cell(row, "flops")]
    if len(empty) == len(rows):
        return SIX_ND
    if empty:
        raise InputError(
            f"{path}, row {empty[0]}: flops is empty but other rows give it; fill all of them or none (6ND)"
        )
    return GIVEN


def _point(where: str, row: dict[str, str], loss_column: str, convention: str, default_run: str) -> Point:
    if None in row:
        raise InputError(f"{where}: more fields than the header has columns; quote fields that hold commas")
    params, tokens, loss = (_number(where, name, _cell(row, name)) for name in ("params", "tokens", loss_column))
    noise = _cell(row, "noise")
    return Point(
        params=params,
        tokens=tokens,
        loss=loss,
        # In floats: 6 N D of a large run does not fit 64-bit integers.
        flops=six_nd(params, tokens) if convention == SIX_ND else _number(where, "flops", _cell(row, "flops")),
        run=_cell(row, "run") or default_run,
        noise=_number(where, "noise", noise) if noise else None,
        convention=convention,
    )


def _cell(row: dict[str, str], name: str) -> str:
    return (row.get(name) or "").strip()


def _number(where: str, name: str, text: str) -> float:
    """`text` as a finite number above 0, or an InputError that shows how to write it."""
    if not text:
        raise InputError(f"{where}: {name} is empty; give a number above 0")
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {name} = {text[:40]!r} is not a number; {how_to_write(name, text)}") from None
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{where}: {name} = {text[:40]}; give a finite number above 0")
    return value


def how_to_write(name: str, text: str) -> str:
    """How to write it; a comma that is not before three digits, or in a loss, stands for the point."""
    decimal = re.fullmatch(r"\d+,\d+", text) and (name in _SMALL or not re.fullmatch(r"\d{1,3},\d{3}", text))
    if decimal:
        return f"write {text.replace(',', '.')}"
    plain = text.replace(",", "").replace(" ", "").lower()
    match = re.fullmatch(r"(\d+\.?\d*)([kmbgt]?)", plain)
    if match is None:
        return "write digits, as in 70000000 or 7e7"
    return f"write {float(match[1]) * SUFFIXES.get(match[2], 1.0):.15g}"
