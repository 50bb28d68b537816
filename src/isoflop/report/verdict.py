"""What the page says first: the loss foretold for the held-out model against the loss it measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.report.drawing import Axis, Drawing, Panel, Shape, diamond, padded
from isoflop.report.numbers import loss
from isoflop.report.records import Forecast, Result
from isoflop.report.run import Model

TITLE = "The forecast's interval and what was measured"


@dataclass(frozen=True)
class Verdict:
    """A forecast that names a loss and its 95 % interval, tested by the runs of the held-out size that are done.

    `error` is the loss measured over the loss foretold, less one; `half_width` that of the 95 % interval over the loss
    foretold.
    """

    forecast: Forecast
    foretold: float
    low_95: float
    high_95: float
    tests: tuple[Result, ...]

    @property
    def half_width(self) -> float:
        return (self.high_95 - self.low_95) / 2 / self.foretold

    @property
    def measured(self) -> float | None:
        """The loss of the model that the forecast names."""
        return self.tests[0].nats_per_token if self.tests else None

    @property
    def error(self) -> float | None:
        return None if self.measured is None else self.measured / self.foretold - 1

    @property
    def inside(self) -> bool | None:
        return None if self.measured is None else self.holds(self.measured)

    @property
    def n_inside(self) -> int:
        """How many of the tests lie inside the 95 % interval."""
        return sum(self.holds(test.nats_per_token) for test in self.tests if test.nats_per_token is not None)

    def holds(self, measured: float) -> bool:
        """Whether the 95 % interval holds a loss."""
        return self.low_95 <= measured <= self.high_95


def judge(forecast: Forecast | None, models: Sequence[Model]) -> Verdict | None:
    """None where no loss with its interval is foretold. The model that the forecast names is the first of the tests."""
    if forecast is None or not forecast.loss or forecast.low_95 is None or forecast.high_95 is None:
        return None
    sizes = {model.size for model in models if forecast.model in (model.name, model.size)}
    tests = [model.result for model in models if model.size in sizes and model.result]
    tests = [test for test in tests if test.nats_per_token is not None]
    tests.sort(key=lambda test: test.name != forecast.model)
    return Verdict(forecast, forecast.loss, forecast.low_95, forecast.high_95, tuple(tests))


def draw_verdict(name: str, verdict: Verdict, width: int, height: int) -> Drawing:
    """The interval as a bar along the loss, with a mark for every test."""
    forecast = verdict.forecast
    losses = [test.nats_per_token for test in verdict.tests if test.nats_per_token is not None]
    x = Axis(*padded([verdict.low_95, verdict.high_95, *losses], 0.12, log=False), 14, width - 14, False, "nats/token")
    y = Axis(0, 1, height - 44, 8, False, "")
    middle = (y.start + y.end) / 2
    bars = [_bar(x, y, verdict.low_95, verdict.high_95, "95")]
    if forecast.low_80 is not None and forecast.high_80 is not None:
        bars.append(_bar(x, y, forecast.low_80, forecast.high_80, "80"))
    at = float(x.at(verdict.foretold))
    bars.append(Shape(f"M{at:.1f} {y.end:.1f}V{y.start:.1f}", "foretold-median", f"foretold: {loss(verdict.foretold)}"))
    marks = [
        Shape(diamond(float(x.at(value)), middle, 8), "point held", f"{test.name} measured: {loss(value)}")
        for test in reversed(verdict.tests)
        if (value := test.nats_per_token) is not None
    ]
    told = f"Foretold {loss(verdict.foretold)}, 95 % interval {loss(verdict.low_95)} to {loss(verdict.high_95)}"
    told += f"; measured {', '.join(map(loss, losses)) or 'nothing yet'}, in nats per token."
    ticks = x.ticks(4 if width < 600 else 9, lambda v: f"{v:.4g}")
    return Drawing(name, width, height, TITLE, told, (Panel(x, y, ticks, (), tuple(bars), tuple(marks)),))


def _bar(x: Axis, y: Axis, low: float, high: float, percent: str) -> Shape:
    left, right = float(x.at(low)), float(x.at(high))
    inset = 8 if percent == "95" else 0
    path = f"M{left:.1f} {y.end + inset:.1f}H{right:.1f}V{y.start - inset:.1f}H{left:.1f}z"
    return Shape(path, f"bar bar-{percent}", f"{percent} % interval: {loss(low)} to {loss(high)}")
