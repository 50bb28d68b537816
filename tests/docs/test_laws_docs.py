"""The page on laws: its program runs, and its forms are those there are."""

import re
from pathlib import Path

from isoflop.law.forms import FORMS
from isoflop.published import set_names

PAGE = (Path(__file__).parents[2] / "docs" / "laws.md").read_text(encoding="utf-8")


def test_the_program_on_the_page_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(program, names)
    assert "law" in names


def test_every_form_is_on_the_page() -> None:
    section = PAGE.split("## Forms")[1].split("##")[0]
    rows = {
        name
        for row in re.findall(r"^\| (`.*?`) \|", section, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert rows == FORMS.keys()
    assert len(set_names()) == 11
