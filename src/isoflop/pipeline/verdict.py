"""What a held-out model measured against what was foretold of it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.forecast import Forecast, read_forecast
from isoflop.pipeline.result import read_result

if TYPE_CHECKING:
    from isoflop.recipe import Plan


@dataclass(frozen=True)
class Verdict:
    """`error` is the loss measured over the loss foretold, less one; `half_width` that of the 95 % interval."""

    model: str
    foretold: float
    measured: float
    error: float
    half_width: float
    inside_80: bool
    inside_95: bool

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def judge(plan: "Plan", folder: RunFolder) -> list[Verdict]:
    """One verdict for each seed of the held-out model that is trained; none without a forecast."""
    forecast = read_forecast(folder)
    if forecast is None:
        return []
    results = (read_result(folder, model.name) for model in plan.held_out)
    return [_verdict(forecast, result.name, result.nats_per_token) for result in results if result]


def _verdict(forecast: Forecast, model: str, measured: float) -> Verdict:
    return Verdict(
        model=model,
        foretold=forecast.loss,
        measured=measured,
        error=measured / forecast.loss - 1,
        half_width=(forecast.high_95 - forecast.low_95) / 2 / forecast.loss,
        inside_80=forecast.low_80 <= measured <= forecast.high_80,
        inside_95=forecast.low_95 <= measured <= forecast.high_95,
    )
