"""forecast.json: the loss of the held-out model, said before it starts to train."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from isoflop.durable import refuse_broken_seal, to_json, write_sealed
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.law import LADDER_POINTS, ladder_law, ladder_results
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.result import Result

if TYPE_CHECKING:
    from isoflop.law import Law
    from isoflop.recipe import ModelPlan, Plan


@dataclass(frozen=True)
class Interval:
    """A foretold loss: its median, and the intervals that hold a new run with 80 and 95 %."""

    loss: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Forecast:
    """What the law of the ladder says of a model: in nats/token, and in bits/byte of the same text.

    `points` are those the law was fitted on, `time` (ISO, UTC) is when it was said.
    """

    model: str
    params: int
    tokens: int
    flops: int
    loss: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float
    bits_per_byte: Interval
    points: tuple[dict[str, Any], ...]
    time: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What forecast.json holds."""
        return asdict(self)


def foretell(plan: "Plan", folder: RunFolder, listener: Listener, partly: bool = False) -> Forecast | None:
    """Says the loss of the held-out model and writes law.json and forecast.json, while that model has not started and
    once the whole ladder is trained, or with `partly` what there is of it.

    Once it has, what was said stands: a forecast made afterwards is none. None where nothing is or can be foretold; the
    listener hears why.

    Raises:
        WorkError: forecast.json is damaged, or the disk is full.
    """
    results = ladder_results(plan, folder)
    waiting = len(plan.ladder) - len(results)
    if waiting and not partly:
        listener.note(f"no law yet: {waiting} of the ladder's {len(plan.ladder)} models are not trained")
        return read_forecast(folder)
    try:
        law = ladder_law(plan, folder) if len(results) >= LADDER_POINTS else None
    except InputError as error:
        listener.note(f"no law: {error}")
        return None
    if law is None:
        listener.note(f"no law: the ladder has {len(results)} models, a forecast needs {LADDER_POINTS} or more")
        return None
    listener.fitted(law)
    if not plan.held_out:
        listener.note("nothing to foretell: the family holds no model out")
        return None
    forecast = _forecast(law, plan, results, folder, listener)
    if forecast is not None:
        listener.foretold(forecast)
    return forecast


def read_forecast(folder: RunFolder) -> Forecast | None:
    """The forecast that stands; None while there is none.

    Raises:
        WorkError: forecast.json is damaged.
    """
    try:
        document = refuse_broken_seal(json.loads(folder.forecast.read_bytes()))
        return TypeAdapter(Forecast).validate_json(json.dumps(document), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"{folder.forecast}: cannot read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError):
        raise WorkError(
            f"{folder.forecast}: damaged; bring it back from a copy, or delete it: once the held-out model has started "
            "there will be none"
        ) from None


def has_started(folder: RunFolder, name: str) -> bool:
    """Whether anything of a model's training is there."""
    model = folder.model(name)
    return any((model / file).exists() for file in ("metrics.jsonl", "checkpoints", "result.json"))


def _forecast(
    law: "Law", plan: "Plan", results: list[Result], folder: RunFolder, listener: Listener
) -> Forecast | None:
    """The forecast that stands if it still may and must, else a new one."""
    model = plan.held_out[0]
    standing = read_forecast(folder)
    points = tuple(json.loads(to_json([asdict(point) for point in law.points])))
    same = standing is not None and standing.points == points and standing.model == model.name
    if standing is not None and same and standing.tokens == model.tokens and standing.params == model.shape.params:
        return standing
    if any(has_started(folder, held_out.name) for held_out in plan.held_out):
        if standing is None:
            listener.note(f"no forecast: {model.name} started before the ladder was done, and afterwards is too late")
        else:
            listener.note(f"the forecast stands as it was said at {standing.time}, though the ladder changed since")
        return standing
    forecast = _foretold(law, model, results[-1], points)
    write_sealed(folder.forecast, forecast.to_json())
    return forecast


def _foretold(law: "Law", model: "ModelPlan", rung: Result, points: tuple[dict[str, Any], ...]) -> Forecast:
    prediction = law.predict(float(model.shape.params), float(model.tokens), float(model.flops))
    said = Interval(prediction.loss, prediction.low_80, prediction.high_80, prediction.low_95, prediction.high_95)
    # All models of a family are measured on the same held-out text: one factor leads from nats/token to bits/byte.
    factor = rung.bits_per_byte / rung.nats_per_token
    return Forecast(
        model=model.name,
        params=model.shape.params,
        tokens=model.tokens,
        flops=model.flops,
        **asdict(said),
        bits_per_byte=Interval(**{name: factor * value for name, value in asdict(said).items()}),
        points=points,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=(*law.warnings, *law.warnings_for([prediction])),
    )
