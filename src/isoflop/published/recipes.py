"""How other people's families were trained: every setting that was published, with its source."""

import csv
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from isoflop.errors import WorkError

RECIPE_FILES = ("cerebras_gpt_recipes.csv",)


@dataclass(frozen=True)
class PublishedRecipe:
    """One model's settings, under the names that `isoflop plan --json` uses.

    `batch_schedule` holds (from token, sequences a step) pairs, `steps` the optimizer's steps over all of them, `flops`
    the training compute as its authors counted it. Deviations of the initialisation are those before truncation.
    """

    family: str
    model: str
    parametrisation: str
    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    vocab_size: int
    context_length: int
    params: int
    tokens: int
    batch_schedule: tuple[tuple[int, int], ...]
    steps: int
    peak_lr: float
    final_lr: float
    warmup_tokens: int
    decay: str
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float
    embedding_init_std: float
    hidden_init_std: float
    residual_init_std: float
    init_truncation: float
    embedding_multiplier: float
    output_multiplier: float
    attention_exponent: float
    hidden_lr_multiplier: float
    precision: str
    flops: float
    source: str


def published_recipes(family: str | None = None) -> list[PublishedRecipe]:
    """The recipes of this package's CSV files in their order, of one family or all.

    Raises:
        WorkError: a file of the package was changed so that a row cannot be read.
    """
    found = []
    for name in RECIPE_FILES:
        with (files("isoflop.published") / name).open(encoding="utf-8") as file:
            found += [_recipe(name, number, row) for number, row in enumerate(csv.DictReader(file), start=2)]
    return [recipe for recipe in found if family in (None, recipe.family)]


def _recipe(name: str, number: int, row: dict[str, str]) -> PublishedRecipe:
    try:
        return PublishedRecipe(**{field.name: _value(field.type, row[field.name]) for field in fields(PublishedRecipe)})
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"isoflop/published/{name}, row {number}: damaged; install isoflop again") from None


def _value(kind: Any, text: str) -> Any:
    if kind in (str, int, float):
        return kind(text)
    stages = [stage.split(":") for stage in text.split()]
    return tuple((int(from_tokens), int(sequences)) for from_tokens, sequences in stages)
