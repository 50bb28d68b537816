"""The data of a figure as a table: what its CSV holds, and what is read aloud instead of it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Columns, named with their units, and rows as long; numbers are exact, None is an empty cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """The table as CSV. A text that a spreadsheet would run as a formula gets an apostrophe before it."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(cell) for cell in row] for row in self.rows)
        return file.getvalue()

    @property
    def link(self) -> str:
        """The CSV as an address that holds it."""
        return "data:text/csv;charset=utf-8," + quote(self.csv(), safe=",.:;/()[]*'")


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend: `glyph` names one of `drawing.GLYPHS`, or is "line" or "band"; `css` colours it.

    An entry with a `series` switches what carries the same name on and off.
    """

    label: str
    glyph: str
    css: str
    series: str = ""


def _cell(cell: Cell) -> Cell:
    if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + cell
    return cell


def rows_of(rows: Sequence[Sequence[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows as a table keeps them."""
    return tuple(tuple(row) for row in rows)
