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
    flops_paper: Number = None
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
    steps: Number = None
    flops: Number = None
    nats_per_token: Number = None
    bits_per_byte: Number = None
    system_seconds: Number = None
    seconds: Number = None
    joules: Number = None
    joules_origin: str | None = None
    price: Number = None
    systems: Number = None
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


class Layout(Record):
    """How devices share a model, as `isoflop plan --systems --json` says."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    microbatch_sequences: int = 1
    chunks: int = 1
    recompute: bool = False


class Step(Record):
    """What a step of one way to train is foretold to come to."""

    step_seconds: float
    memory_bytes: float
    fits: bool
    tokens_per_second: float
    of_linear: float
    of_peak: float


class ScalingRow(Record):
    """A number of systems that go one way; `foretold` is None where no layout fits the devices."""

    systems: int
    way: str
    layout: Layout | None = None
    foretold: Step | None = None


class Hardware(Record):
    """What the systems are."""

    name: str
    memory_bytes: float
    source: str


class Scaling(Record):
    """One model on growing numbers of one kind of system. `tokens` of its training, `ours` if it is of this family."""

    model: str
    params: float
    tokens: float
    batch_sequences: int
    ours: bool
    hardware: Hardware
    rows: tuple[ScalingRow, ...]


class Compared(Record):
    """A model of compare.json, ours or published; the loss in nats per token of GPT-2's, `scores` by shots and task."""

    family: str
    model: str
    ours: bool = False
    params: Number = None
    tokens: Number = None
    flops: Number = None
    nats_per_gpt2_token: Number = None
    bits_per_byte: Number = None
    text: str = ""
    comparable: bool = False
    scores: dict[str, dict[str, Number]] = {}
    averages: dict[str, Number] = {}
    source: str = ""


class OpenFamily(Record):
    """How open a family is, a row of compare.json: each part open, partly or closed."""

    family: str
    ours: bool = False
    data: str = ""
    code: str = ""
    weights: str = ""
    recipe: str = ""
    licence: str = ""
    tokens_per_parameter_low: Number = None
    tokens_per_parameter_high: Number = None
    compute_optimal: str = "unknown"
    note: str = ""
    source: str = ""


class Needed(Record):
    """The training compute that a family's law needs for the loss compared at; None where it never gets there."""

    family: str
    flops: Number = None
    low_80: Number = None
    high_80: Number = None
    times_largest: Number = None
    times_least: Number = None
    why_not: str = ""


class Comparison(Record):
    """compare.json: the family beside published ones."""

    text: str = ""
    loss: Number = None
    models: tuple[Compared, ...] = ()
    needed: tuple[Needed, ...] = ()
    openness: tuple[OpenFamily, ...] = ()
    notes: tuple[str, ...] = ()


class Figured(Record):
    """A figure of a task and its standard error."""

    value: Number = None
    stderr: Number = None


class Score(Record):
    """A row of tasks.json: `metric` is the headline among `metrics`, `members` are the tasks of a group."""

    task: str
    shots: int = 0
    limit: int | None = None
    step: Number = None
    metric: str = ""
    chance: Number = None
    metrics: dict[str, Figured] = {}
    items: Number = None
    members: tuple[str, ...] = ()
    precision: str = ""

    @property
    def accuracy(self) -> float | None:
        """The headline's value."""
        found = self.metrics.get(self.metric)
        return found.value if found else None

    @property
    def stderr(self) -> float | None:
        """Its standard error."""
        found = self.metrics.get(self.metric)
        return found.stderr if found else None


class Scores(Record):
    """models/<name>/tasks.json."""

    scores: tuple[Score, ...] = ()
