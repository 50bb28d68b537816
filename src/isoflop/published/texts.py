"""The texts on which losses are published, and how many tokens GPT-2's tokenizer makes of them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from isoflop.errors import WorkError


@dataclass(frozen=True)
class PublishedText:
    """A text; `gpt2_tokens_per_byte` leads from nats per token of GPT-2's to bits per byte."""

    text: str
    gpt2_tokens_per_byte: float
    source: str


@cache
def published_texts() -> tuple[PublishedText, ...]:
    """Every text of this package's table.

    Raises:
        WorkError: the table was changed so that a row cannot be read.
    """
    with (files("isoflop.published") / "texts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(PublishedText(row["text"], float(row["gpt2_tokens_per_byte"]), row["source"]) for row in rows)
    except (KeyError, TypeError, ValueError):
        raise WorkError("isoflop/published/texts.csv: damaged; install isoflop again") from None
