"""A table as people read it in a terminal."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n

if TYPE_CHECKING:
    from rich.console import Console


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> None:
    """Columns two spaces apart: the first and column `left` to the left, numbers to the right."""
    from rich.console import Console
    from rich.text import Text

    # A pipe has no width: nothing is cut there.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
    lines = _lines(header, rows, left)
    if lines is None or max(map(len, lines)) > console.width:
        _print_cut(console, header, rows, left)
        return
    console.print(Text(lines[0], style="bold"), soft_wrap=True)
    for line in lines[1:]:
        console.file.write(line + "\n")


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str] | None:
    """The table as plain lines, for a thousand rows at once; None where a character may be wider than one column."""
    cells = [header, *rows]
    if not all(cell.isascii() and cell.isprintable() for row in cells for cell in row):
        return None
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    to_the_left = [i == 0 or bool(left and i > left) for i in range(len(widths))]
    shapes = [f"{{:{'<' if to_left else '>'}{width}}}" for to_left, width in zip(to_the_left, widths, strict=True)]
    return ["  ".join(shapes).format(*row) for row in cells]


def _print_cut(console: "Console", header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """The table as wide as the terminal: text at its end is wrapped, the rest cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(header):
        last_text = left and i > left
        table.add_column(Text(name), justify="left" if i == 0 or last_text else "right", no_wrap=not last_text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def without_empty(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without the columns of which nothing is known."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("", n.MISSING) for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def of(number: int, noun: str) -> str:
    """1 model, 2 models"""
    return f"{number:,} {noun}{'s' * (number != 1)}"
