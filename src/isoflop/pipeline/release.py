"""One Hugging Face folder for each trained model, written again only when what it says has changed."""

import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.durable import remove_unfinished, to_json
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.forecast import Forecast, read_forecast
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import Result, read_result
from isoflop.pipeline.task_scores import read_task_scores
from isoflop.pipeline.weights import finished_weights, saved_steps, weights_at
from isoflop.published import published_tasks

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.model import Weights
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.release import Card, SavedStep, Scored, Spike


def release_run(path: Path, listener: Listener) -> Sequence[Path]:
    """The release folders of all trained models of the run directory at `path`.

    Raises:
        InputError: there is no such directory, or no model in it is trained.
        WorkError: a checkpoint is damaged or the disk is full.
    """
    folder = find_run(path)
    family, plan = stored_plan(folder)
    with locked(folder):
        releases = release_models(family, plan, folder, listener)
    if not releases:
        raise InputError(f"{folder.path}: no model is trained yet; run isoflop train with the family file")
    return releases


def release_models(family: Family, plan: "Plan", folder: RunFolder, listener: Listener) -> list[Path]:
    """The release folders of the models that are trained, made where they are missing or say something else."""
    from isoflop.data import load_manifest
    from isoflop.release import released

    forecast = read_forecast(folder)
    documents = _documents(family, folder)
    releases = []
    for model in plan.models:
        result = read_result(folder, model.name)
        if result is None:
            continue
        target = folder.release(model.name)
        card = _card(family, model, load_manifest(folder.data), result, forecast, folder, documents)
        if not released(target, card):
            if model.held_out and forecast is None:
                listener.note(f"{folder.forecast}: not there; the card of {model.name} will tell no forecast")
            listener.note(f"{model.name}: writing {target}")
            _release(folder, model, card, listener)
        remove_unfinished(target)
        releases.append(target)
    return releases


def _release(folder: RunFolder, model: "ModelPlan", card: "Card", listener: Listener) -> None:
    from isoflop.data.manifest import TOKENIZER_FILE
    from isoflop.release import release_model

    weights = finished_weights(model, folder, listener)

    def saved(step: "SavedStep") -> "Weights":
        return weights_at(model, folder, step.step, listener)[0]

    release_model(folder.release(model.name), weights, folder.data / TOKENIZER_FILE, card, saved)


def _documents(family: Family, folder: RunFolder) -> dict[str, str]:
    """The family file without the places of this machine, and the law."""
    said = family.model_dump(mode="python", exclude_unset=True)
    documents = {"family.json": to_json(_without_places(said)) + "\n"}
    if folder.law.is_file():
        documents["law.json"] = folder.law.read_text(encoding="utf-8")
    return documents


def _without_places(said: Any) -> Any:
    """Paths by their last part: what a folder is called here is nobody's business."""
    if isinstance(said, dict):
        return {key: _without_places(value) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return [_without_places(value) for value in said]
    return said.name if isinstance(said, PurePath) else said


def _card(
    family: Family,
    model: "ModelPlan",
    data: "Manifest",
    result: Result,
    forecast: Forecast | None,
    folder: RunFolder,
    documents: dict[str, str],
) -> "Card":
    from isoflop.release import Card, Change, Foretold, Measured, SavedStep

    foretold = None
    if forecast is not None and model.held_out:
        intervals = (forecast.low_80, forecast.high_80, forecast.low_95, forecast.high_95)
        foretold = Foretold(forecast.loss, *intervals, forecast.time)
    there = [step for step in saved_steps(model, folder) if step in model.kept_steps]
    return Card(
        family=family.name,
        description=family.description,
        plan=model,
        data=data,
        measured=Measured(
            nats_per_token=result.nats_per_token,
            bits_per_byte=result.bits_per_byte,
            seconds=result.seconds,
            joules=result.joules,
            joules_origin=result.joules_origin,
            threads=result.threads,
            processor=result.processor,
            torch=result.torch,
            system_seconds=result.system_seconds,
            mfu=result.mfu,
            price=result.price,
            currency=family.cost.currency,
        ),
        foretold=foretold,
        weights_sha256=result.weights_sha256,
        scores=_scores(folder, model, result),
        checkpoints=tuple(SavedStep(step, model.tokens_until(step)) for step in there),
        spikes=_spikes(folder, model),
        changes=tuple(Change(one["step"], one["setting"], str(one["was"]), str(one["is"])) for one in result.changes),
        documents=documents,
        datasets=tuple(family.data.datasets),
    )


def _spikes(folder: RunFolder, model: "ModelPlan") -> "tuple[Spike, ...]":
    """What training has told of its steps that went wrong.

    Raises:
        WorkError: the file is damaged.
    """
    from isoflop.release import Spike
    from isoflop.train.spikes import read_spikes

    path = folder.model(model.name) / "spikes.json"
    try:
        return tuple(
            Spike(
                step=int(one["step"]),
                kind=str(one["kind"]),
                loss=_number(one["loss"]),
                grad_norm=_number(one["grad_norm"]),
                limit=None if one["limit"] is None else float(one["limit"]),
                answer=str(one["answer"]),
                documents=len(one["documents"]),
            )
            for one in read_spikes(path)
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise WorkError(
            f"{path}: damaged; bring it back from a copy, or delete it: the card then tells of no spikes"
        ) from None


def _number(value: float | None) -> float:
    """JSON has no NaN: what was not finite is null there."""
    return math.nan if value is None else float(value)


def _scores(folder: RunFolder, model: "ModelPlan", result: Result) -> "tuple[Scored, ...]":
    """What the released weights reached on whole tasks, in fp32 as they are released; groups, not their members."""
    from isoflop.release import Scored

    data_sets = {task.harness_task: task.data_set for task in published_tasks()}
    scores = [
        score
        for score in read_task_scores(folder, model.name)
        if (score.weights_sha256, score.limit, score.precision) == (result.weights_sha256, None, "fp32")
    ]
    members = {name for score in scores for name in score.members}
    return tuple(
        Scored(
            task=score.task,
            shots=score.shots,
            metric=score.metric,
            value=score.figure.value,
            stderr=score.figure.stderr,
            chance=score.chance,
            items=score.items,
            data_set=data_sets.get(score.task),
            harness=score.harness,
        )
        for score in scores
        if score.task not in members
    )
