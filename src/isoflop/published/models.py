"""Other people's models: the facts they published, each with its source."""

import csv
import math
from dataclasses import dataclass
from importlib.resources import files

from isoflop.errors import WorkError

FILES = ("cerebras_gpt.csv",)


@dataclass(frozen=True)
class PublishedModel:
    """One trained model.

    `flops` is the training compute as its authors counted it, `nats_per_token` the held-out loss on the Pile with their
    tokenizer. Cerebras-GPT: the paper's losses, to which its law was fitted; its model cards say otherwise.
    """

    family: str
    model: str
    params: float
    tokens: float
    flops: float
    nats_per_token: float
    source: str


def published_models() -> list[PublishedModel]:
    """Every model of this package's CSV files, in their order.

    Raises:
        WorkError: a file of the package was changed so that a row cannot be read.
    """
    found = []
    for name in FILES:
        with (files("isoflop.published") / name).open(encoding="utf-8") as file:
            found += [_model(name, number, row) for number, row in enumerate(csv.DictReader(file), start=2)]
    return found


def _model(name: str, number: int, row: dict[str, str]) -> PublishedModel:
    try:
        params, tokens, flops, loss = (float(row[column]) for column in ("params", "tokens", "flops", "nats_per_token"))
        if not all(math.isfinite(value) and value > 0 for value in (params, tokens, flops, loss)) or not row["source"]:
            raise ValueError
        return PublishedModel(row["family"], row["model"], params, tokens, flops, loss, row["source"])
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"isoflop/published/{name}, row {number}: damaged; install isoflop again") from None
