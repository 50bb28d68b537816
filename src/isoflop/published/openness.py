"""How open published families are: what anyone may have of their data, code, weights and recipe, with sources."""

import csv
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from isoflop.errors import WorkError

Degree = Literal["open", "partly", "closed", "unknown"]
PARTS = ("data", "code", "weights", "recipe")


class Openness(BaseModel):
    """One family. `compute_optimal` says whether tokens were chosen for each size by a compute-optimal rule.

    In the table an empty cell is what nobody has told: `unknown`, or None where a number stands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str = Field(min_length=1)
    data: Degree
    code: Degree
    weights: Degree
    recipe: Degree
    licence: str
    tokens_per_parameter_low: float | None
    tokens_per_parameter_high: float | None
    compute_optimal: Literal["yes", "no", "unknown"]
    note: str
    source: str = Field(min_length=1)

    @field_validator(*PARTS, "compute_optimal", mode="before")
    @classmethod
    def _nobody_told(cls, value: object) -> object:
        return "unknown" if value == "" else value

    @field_validator("tokens_per_parameter_low", "tokens_per_parameter_high", mode="before")
    @classmethod
    def _empty_is_unknown(cls, value: object) -> object:
        return None if value == "" else value


def published_openness() -> list[Openness]:
    """The families of this package's table, the most open first.

    Raises:
        WorkError: the table was changed so that a row cannot be read.
    """
    with (files("isoflop.published") / "openness.csv").open(encoding="utf-8") as file:
        try:
            return [Openness.model_validate(row) for row in csv.DictReader(file)]
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise WorkError(f"isoflop/published/openness.csv: damaged at {where}; install isoflop again") from None
