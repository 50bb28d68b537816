"""docs/reliability.md names tests that exist, for every row of the fault matrix."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`([a-z_/0-9]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 60
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).exists()
        or not re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_row_has_a_test_or_is_told_not_to_hold() -> None:
    rows = {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+) \|.*$", PAGE, re.MULTILINE)}
    open_rows = {int(n) for one in re.findall(r"^- \*\*([\d, ]+)\*\*:", PAGE, re.MULTILINE) for n in one.split(",")}
    assert rows.keys() | open_rows == set(range(1, 49))
    assert not rows.keys() & open_rows
    assert all("::test_" in row for row in rows.values())
