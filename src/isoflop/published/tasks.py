"""The downstream tasks that models are published with: their names in lm-evaluation-harness, what guessing gives."""

import csv
from dataclasses import dataclass
from importlib.resources import files

from isoflop.errors import WorkError


@dataclass(frozen=True)
class PublishedTask:
    """A task. `harness_folder` holds it among the harness's own, `data_set` is on the hub; papers report `metric`."""

    task: str
    harness_task: str
    harness_folder: str
    data_set: str
    metric: str
    chance: float
    published_as: str
    source: str


def published_tasks() -> list[PublishedTask]:
    """The seven tasks of Cerebras-GPT's tables, in their order.

    Raises:
        WorkError: the package's file was changed so that a row cannot be read.
    """
    with (files("isoflop.published") / "tasks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [PublishedTask(chance=float(row.pop("chance")), **row) for row in rows]
    except (TypeError, ValueError):
        raise WorkError("isoflop/published/tasks.csv: damaged; install isoflop again") from None
