"""What `isoflop tune` found, as a file that a family can name with `tuned = "PATH"`."""

from typing import Literal

from isoflop.config.family import Positive, Table

TUNED_KEYS = ("peak_lr", "init_std", "embedding_multiplier")


class Tuned(Table):
    """Values for [recipe], and the parametrisation at which they were found: under another they mean something else."""

    parametrisation: Literal["standard", "mup"]
    base_width: int
    peak_lr: Positive
    init_std: Positive
    embedding_multiplier: Positive
