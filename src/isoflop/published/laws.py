"""Published laws of loss against training compute: what compute-optimal training is measured by."""

import csv
from dataclasses import dataclass
from importlib.resources import files

from isoflop.errors import WorkError


@dataclass(frozen=True)
class PublishedLaw:
    """L(C) = (C / scale_flops)^-exponent + irreducible, in nats per GPT-2 token of `text`."""

    name: str
    scale_flops: float
    exponent: float
    irreducible: float
    text: str
    source: str

    def loss(self, flops: float) -> float:
        return float((flops / self.scale_flops) ** -self.exponent + self.irreducible)

    def flops(self, loss: float) -> float | None:
        """The training compute that reaches `loss`; None where none does."""
        above = loss - self.irreducible
        return float(self.scale_flops * above ** (-1 / self.exponent)) if above > 0 else None


def published_law(name: str = "Cerebras-GPT") -> PublishedLaw:
    """The law of that name in this package's table.

    Raises:
        WorkError: the table was changed so that it cannot be read.
    """
    with (files("isoflop.published") / "laws.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    try:
        row = rows[name]
        numbers = {key: float(row.pop(key)) for key in ("scale_flops", "exponent", "irreducible")}
        return PublishedLaw(**row, **numbers)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        raise WorkError("isoflop/published/laws.csv: damaged; install isoflop again") from None
