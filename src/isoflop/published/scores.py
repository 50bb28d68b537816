"""What published models reach on downstream tasks: a row a figure, each with its source."""

import csv
from dataclasses import dataclass
from importlib.resources import files

from isoflop.errors import WorkError

SCORES_FILE = "scores.csv"


@dataclass(frozen=True)
class PublishedScore:
    """The accuracy (0 to 1) of a model on a task, by its short name in `tasks.csv`, with `shots` examples."""

    family: str
    model: str
    task: str
    shots: int
    accuracy: float
    source: str


def published_scores() -> list[PublishedScore]:
    """Every figure of this package's table, in its order.

    Raises:
        WorkError: the table was changed so that a row cannot be read.
    """
    with (files("isoflop.published") / SCORES_FILE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [PublishedScore(shots=int(row.pop("shots")), accuracy=float(row.pop("accuracy")), **row) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"isoflop/published/{SCORES_FILE}: damaged; install isoflop again") from None
