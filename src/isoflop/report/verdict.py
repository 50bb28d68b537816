"""What the page says first: the loss foretold for the held-out model against the loss it measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.report.drawing import Drawing, Line, Mark, Panel
from isoflop.report.figure import Figure
from isoflop.report.numbers import loss
from isoflop.report.records import Forecast, Result
from isoflop.report.run import Model
from isoflop.report.scale import Scale, padded
from isoflop.report.table import Table

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


def draw_verdict(verdict: Verdict) -> Figure:
    """The interval as a bar along the loss, with a mark for every test."""
    forecast = verdict.forecast
    tests = [(test.name, test.nats_per_token) for test in verdict.tests if test.nats_per_token is not None]
    edges = {"low_95": verdict.low_95, "low_80": forecast.low_80, "median": verdict.foretold}
    edges |= {"high_80": forecast.high_80, "high_95": verdict.high_95}
    ends = [verdict.low_95, verdict.high_95, *(value for _, value in tests)]
    x = Scale(*padded(ends, 0.12, log=False), False, "nats/token", "loss", "nats/token")
    lines = [_bar(verdict.low_95, verdict.high_95, 0.16, "95")]
    if forecast.low_80 is not None and forecast.high_80 is not None:
        lines.append(_bar(forecast.low_80, forecast.high_80, 0.0, "80"))
    lines.append(Line(np.full(2, verdict.foretold), np.array([0.0, 1.0]), "law", "foretold, median"))
    marks = [
        Mark(value, 0.5, "diamond", "held", f"{name} measured: {loss(value)} nats/token")
        for name, value in reversed(tests)
    ]
    told = f"Foretold {loss(verdict.foretold)}, 95 % interval {loss(verdict.low_95)} to {loss(verdict.high_95)}"
    told += f"; measured {', '.join(loss(value) for _, value in tests) or 'nothing yet'}, in nats per token."
    panel = Panel(x, Scale(0, 1, False, "", "none"), tuple(lines), tuple(marks))
    rows = [("foretold", name, value) for name, value in edges.items()]
    rows += [("measured", name, value) for name, value in tests]
    table = Table(("kind", "name", "loss (nats/token)"), tuple(rows))
    return Figure(Drawing("verdict", TITLE, told, (panel,), 124, 124, still=True), (), table)


def _bar(low: float, high: float, inset: float, percent: str) -> Line:
    x, y = np.array([low, high, high, low]), np.array([inset, inset, 1 - inset, 1 - inset])
    return Line(x, y, f"band-{percent}", f"{percent} % interval: {loss(low)} to {loss(high)}", closed=True, silent=True)
