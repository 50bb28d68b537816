"""Other people's measurements, as tables of facts: what laws are tested on."""

import csv
from dataclasses import dataclass
from importlib.resources import files

from isoflop.errors import InputError, WorkError


@dataclass(frozen=True)
class PublishedSet:
    """A table of runs. `holds`, `loss_unit`, `source`, `licence` and `beware` are what sets.csv says of it."""

    name: str
    holds: str
    loss_unit: str
    source: str
    licence: str
    beware: str
    rows: tuple[dict[str, str], ...]

    def texts(self, column: str) -> list[str]:
        return [row[column] for row in self.rows]

    def numbers(self, column: str) -> list[float]:
        """NaN where the cell is empty."""
        return [float(text) if text else float("nan") for text in self.texts(column)]


def set_names() -> list[str]:
    return list(_index())


def published_set(name: str) -> PublishedSet:
    """The set of that name.

    Raises:
        InputError: there is none; the message lists those there are.
        WorkError: its file is not in the package.
    """
    index = _index()
    if name not in index:
        raise InputError(f"no published set {name!r}; there are {', '.join(index)}")
    try:
        with (files("isoflop.published") / "sets" / f"{name}.csv").open(encoding="utf-8") as file:
            return PublishedSet(**index[name], rows=tuple(csv.DictReader(file)))
    except FileNotFoundError:
        raise WorkError(f"isoflop/published/sets/{name}.csv: not there; install isoflop again") from None


def _index() -> dict[str, dict[str, str]]:
    with (files("isoflop.published") / "sets.csv").open(encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}
