"""A table as people read it in a terminal."""

import sys
from collections.abc import Sequence

from isoflop.cli import numbers as n


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> None:
    """Columns two spaces apart: the first and column `left` to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(header):
        last_text = left and i > left
        table.add_column(Text(name), justify="left" if i == 0 or last_text else "right", no_wrap=not last_text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: nothing is cut there.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def without_empty(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without the columns of which nothing is known."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("", n.MISSING) for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def of(number: int, noun: str) -> str:
    """1 model, 2 models"""
    return f"{number:,} {noun}{'s' * (number != 1)}"
