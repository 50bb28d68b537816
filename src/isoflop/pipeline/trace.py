"""What a training step read, from the plan and the manifest alone: no run needs to have recorded it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.plan import stored_plan

if TYPE_CHECKING:
    from isoflop.data import Passage
    from isoflop.recipe import ModelPlan, Plan


@dataclass(frozen=True)
class Trace:
    """The documents of one step's batch, in the order of its samples. Step 1 is the first."""

    model: str
    step: int
    steps: int
    sequences: int
    context_length: int
    passages: "tuple[Passage, ...]"

    def to_json(self) -> dict[str, Any]:
        """What `isoflop data show --json` prints."""
        return asdict(self)


def trace_step(family: Family, folder: RunFolder, step: int, model: str | None) -> Trace:
    """What step `step` of a model (the largest, unless named) reads.

    Raises:
        InputError: the data are not prepared, nothing is planned, or there is no such model or step.
        WorkError: the data or the plan are damaged.
    """
    from isoflop.data import DocumentIndex, load_manifest, sample_ids
    from isoflop.recipe import steps_of
    from isoflop.recipe.schedule import step_at

    if not (folder.data / "manifest.json").exists():
        raise InputError(f"{folder.data}: holds no data yet; run isoflop data with the family file")
    planned = _model(_plan(folder), model)
    if step > planned.steps:
        raise InputError(f"--step {step}: {planned.name} has {planned.steps} steps; use 1 to {planned.steps}")
    length = planned.shape.context_length
    this = step_at(steps_of(planned.batch_schedule, planned.tokens, length), step - 1)
    tokens = load_manifest(folder.data).splits.train.tokens
    samples = sample_ids(this.first_sequence, this.sequences, (tokens - 1) // length, planned.seed)
    passages = DocumentIndex(folder.data, "train").passages(samples.tolist(), length)
    return Trace(planned.name, step, planned.steps, this.sequences, length, tuple(passages))


def _plan(folder: RunFolder) -> "Plan":
    try:
        return stored_plan(folder)[1]
    except WorkError as error:
        if folder.plan.exists():
            raise
        raise InputError(f"{folder.path}: nothing is planned yet; run isoflop plan with the family file") from error


def _model(plan: "Plan", name: str | None) -> "ModelPlan":
    if name is None:
        return plan.models[-1]
    for model in plan.models:
        if model.name == name:
            return model
    names = ", ".join(model.name for model in plan.models)
    raise InputError(f"--model {name}: no such model in family {plan.family}; use one of {names}")
