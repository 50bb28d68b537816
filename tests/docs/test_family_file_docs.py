"""docs/family-file.md is complete and its examples work."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from isoflop.config import (
    BpeTokenizer,
    Cluster,
    Cost,
    DataSource,
    Evaluation,
    Family,
    FileTokenizer,
    Gpt2Tokenizer,
    ModelSize,
    Recipe,
    Sizes,
    load_family,
)
from isoflop.config import family as family_file
from isoflop.config.family import BatchStage, Deviation, Published, Streaming

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "family-file.md").read_text(encoding="utf-8")
# What stands in a table under each heading. The three kinds of tokenizer share one, the stages follow the recipe.
SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "Top level": (Family,),
    "`[data]`": (DataSource, Gpt2Tokenizer, BpeTokenizer, FileTokenizer),
    "`[[models]]`": (ModelSize,),
    "`[sizes]`": (Sizes,),
    "`[recipe]`": (Recipe, BatchStage),
    "`[cost]`": (Cost,),
    "`[cluster]`": (Cluster,),
    "`[streaming]`": (Streaming,),
    "`[published]`": (Published, Deviation),
    "`[evaluation]`": (Evaluation,),
}
EXAMPLES = [
    (path.name, block)
    for path in sorted(DOCS.glob("*.md"))
    for block in re.findall(r"^```toml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_lists_every_key_of_a_table_and_no_other(heading: str) -> None:
    fields = {name for model in SECTIONS[heading] for name in model.model_fields}

    assert rows_of(heading).keys() == fields


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_says_the_default_that_holds(heading: str) -> None:
    for model in SECTIONS[heading]:
        for name, field in model.model_fields.items():
            said = rows_of(heading)[name]
            if field.is_required():
                assert said.startswith("needed"), name
            elif isinstance(field.default, bool):
                assert said == str(field.default).lower(), name
            elif isinstance(field.default, int | float):
                assert float(said.replace(",", "")) == field.default, name
            elif isinstance(field.default, str) and field.default:
                assert said == f'`"{field.default}"`', name
            else:
                assert field.default is not PydanticUndefined
                assert not said.startswith("needed"), name


def test_every_table_of_the_file_is_documented() -> None:
    documented = {model for models in SECTIONS.values() for model in models}

    assert documented == set(tables_below(Family))


@pytest.mark.parametrize(("page", "example"), EXAMPLES, ids=[f"{page}-{i}" for i, (page, _) in enumerate(EXAMPLES)])
def test_every_example_loads(page: str, example: str, tmp_path: Path) -> None:
    path = tmp_path / "family.toml"
    path.write_text(example, encoding="utf-8")

    assert load_family(path).name


def test_the_page_has_examples() -> None:
    assert len([page for page, _ in EXAMPLES if page == "family-file.md"]) >= 4


def rows_of(heading: str) -> dict[str, str]:
    """Key and default of each row of the tables under a heading."""
    section = re.split(rf"^## {re.escape(heading)}.*$", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*$", section, re.MULTILINE)
    defaults = re.findall(r"^\| `\w+` \|[^|]*\|([^|]*)\|", section, re.MULTILINE)
    assert len(rows) == len(set(rows))
    return dict(zip(rows, (default.strip() for default in defaults), strict=True))


def tables_below(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for kind in re.findall(r"isoflop\.config\.family\.(\w+)", str(field.annotation)):
            found += tables_below(getattr(family_file, kind))
    return found
