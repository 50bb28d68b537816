"""Tables: plain lines where they fit, as the library for terminals would draw them."""

import pytest
from rich.console import Console

from isoflop.cli import table


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("rows", [[], [["x", "1", "two words"], ["longer", "22", "3"]]])
def test_plain_lines_are_those_of_the_terminal_library(
    rows: list[list[str]], left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    header = ["name", "n", "what"]
    table.print_table(header, rows, left)
    plain = capsys.readouterr().out
    table._print_cut(Console(width=200), header, rows, left)
    assert plain == capsys.readouterr().out


def test_wide_characters_and_wide_tables_are_left_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    table.print_table(["name", "n"], [["模型", "1"], ["abcd", "22"]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["name   n", "模型   1", "abcd  22"]
    table.print_table(["name", "n", "what"], [["x", "1", "word " * 60]], left=1)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 200
