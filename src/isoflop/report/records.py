"""What the report takes from the JSON files of a run directory.

Every number may be missing or null: a report of half a run is still a report. Other keys are left alone.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class Record(BaseModel):
    """A JSON object, frozen."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class BatchStage(Record):
    """From `from_tokens` on, a step reads `sequences` sequences."""

    from_tokens: Number = None
    sequences: Number = None


class PlannedModel(Record):
    """A model as plan.json foresees it."""

    name: str
    size: str | None = None
    seed: int | None = None
    n_layers: Number = None
    d_model: Number = None
    n_heads: Number = None
    params: Number = None
    params_non_embedding: Number = None
    tokens: Number = None
    context_length: Number = None
    batch_schedule: tuple[BatchStage, ...] = ()
    batch_sequences: Number = None
    batch_tokens: Number = None
    steps: Number = None
    peak_lr: Number = None
    flops: Number = None
    seconds: Number = None
    joules: Number = None
    price: Number = None
    held_out: bool = False


class Plan(Record):
    """plan.json. `machine` is shown as it is found."""

    family: str | None = None
    precision: str | None = None
    systems: Number = None
    currency: str | None = None
    machine: dict[str, Any] = {}
    models: tuple[PlannedModel, ...] = ()


class Result(Record):
    """models/<name>/result.json."""

    name: str
    size: str | None = None
    seed: int | None = None
    params: Number = None
    params_non_embedding: Number = None
    tokens: Number = None
    flops: Number = None
    nats_per_token: Number = None
    bits_per_byte: Number = None
    system_seconds: Number = None
    seconds: Number = None
    joules: Number = None
    joules_origin: str | None = None
    price: Number = None
    weights_sha256: str | None = None


class Interval(Record):
    """A foretold loss: its median, and the intervals that hold a new run with 80 and 95 %."""

    loss: Number = None
    low_80: Number = None
    high_80: Number = None
    low_95: Number = None
    high_95: Number = None


class Forecast(Interval):
    """forecast.json, written before the held-out model starts. `time` as it is found: a text or seconds since 1970."""

    model: str
    params: Number = None
    tokens: Number = None
    flops: Number = None
    bits_per_byte: Interval | None = None
    points: tuple[Any, ...] = ()
    time: str | float | None = None
    warnings: tuple[str, ...] = ()
