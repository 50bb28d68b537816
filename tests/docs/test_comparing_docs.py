"""docs/comparing.md: its example of a user's file is read, and its columns are those that are read."""

import re
from pathlib import Path

from isoflop.published import published_law, read_models

PAGE = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")


def test_the_file_shown_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(PAGE.split("```csv\n")[1].split("```")[0])
    (model,) = read_models(tmp_path / "mine.csv")

    assert model.nats_per_gpt2_token == 2.11 * 0.97
    assert model.scores == {("hellaswag", 0): 0.33, ("hellaswag", 5): 0.34}
    assert model.source == "our notebook of 3 May"


def test_the_law_shown_is_the_one_used() -> None:
    numbers = re.search(r"\(C / (\S+)\)\^-(\S+) \+ ([\d.]+),", PAGE)
    law = published_law()

    assert numbers is not None
    assert [float(number) for number in numbers.groups()] == [law.scale_flops, law.exponent, law.irreducible]
