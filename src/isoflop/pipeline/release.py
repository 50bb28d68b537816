"""One Hugging Face folder for each trained model, written again only when what it says has changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.forecast import Forecast, read_forecast
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import Result, read_result
from isoflop.pipeline.weights import finished_weights

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.release import Card


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
    releases = []
    for model in plan.models:
        result = read_result(folder, model.name)
        if result is None:
            continue
        target = folder.release(model.name)
        card = _card(family, model, load_manifest(folder.data), result, forecast)
        if not released(target, card):
            listener.note(f"{model.name}: writing {target}")
            _release(folder, model, card, listener)
        releases.append(target)
    return releases


def _release(folder: RunFolder, model: "ModelPlan", card: "Card", listener: Listener) -> None:
    from isoflop.data.manifest import TOKENIZER_FILE
    from isoflop.release import release_model

    weights = finished_weights(model, folder, listener)
    release_model(folder.release(model.name), weights, folder.data / TOKENIZER_FILE, card)


def _card(family: Family, model: "ModelPlan", data: "Manifest", result: Result, forecast: Forecast | None) -> "Card":
    from isoflop.release import Card, Foretold, Measured

    foretold = None
    if forecast is not None and model.held_out:
        intervals = (forecast.low_80, forecast.high_80, forecast.low_95, forecast.high_95)
        foretold = Foretold(forecast.loss, *intervals, forecast.time)
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
        ),
        foretold=foretold,
        weights_sha256=result.weights_sha256,
    )
