"""The family file: typed, validated and frozen, with errors that name file, key and fix."""

from isoflop.config.family import (
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
)
from isoflop.config.load import load_family

__all__ = [
    "BpeTokenizer",
    "Cluster",
    "Cost",
    "DataSource",
    "Evaluation",
    "Family",
    "FileTokenizer",
    "Gpt2Tokenizer",
    "ModelSize",
    "Recipe",
    "Sizes",
    "load_family",
]
