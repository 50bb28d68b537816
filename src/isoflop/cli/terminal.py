"""The listener at the terminal: what stands goes to standard output, what goes on to standard error."""

from types import TracebackType
from typing import TYPE_CHECKING

from isoflop.cli import law_tables, plan_tables
from isoflop.cli import numbers as n
from isoflop.cli.progress import make_progress

if TYPE_CHECKING:
    from isoflop.law import Law
    from isoflop.pipeline.forecast import Forecast, Interval
    from isoflop.pipeline.result import Result
    from isoflop.pipeline.verdict import Verdict
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.train import Step


class Terminal:
    """A `pipeline.Listener`; with `quiet`, standard output is left to the one JSON document."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._progress = make_progress()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.ends()

    def note(self, line: str) -> None:
        self._progress.note(line)

    def planned(self, plan: "Plan") -> None:
        if not self._quiet:
            plan_tables.print_plan(plan)
            print(flush=True)

    def starts(self, model: "ModelPlan") -> None:
        self._progress.starts(model)

    def step(self, model: "ModelPlan", step: "Step") -> None:
        self._progress.step(model, step)

    def done(self, result: "Result", fresh: bool) -> None:
        self._progress.ends(result.name)
        earlier = "" if fresh else " (done before)"
        self._say(
            f"{result.name}: held-out loss {n.loss(result.nats_per_token)} nats/token, "
            f"{n.loss(result.bits_per_byte)} bits/byte, trained in {n.duration(result.seconds)}{earlier}"
        )

    def fitted(self, law: "Law") -> None:
        if not self._quiet:
            print()
            law_tables.print_law(law)

    def foretold(self, forecast: "Forecast") -> None:
        bits = forecast.bits_per_byte
        self._say(
            "",
            f"{forecast.model} is foretold a held-out loss of {n.loss(forecast.loss)} nats/token "
            f"({n.loss(bits.loss)} bits/byte)",
            f"  80 % interval  {_interval(forecast)[0]} nats/token  ({_interval(bits)[0]} bits/byte)",
            f"  95 % interval  {_interval(forecast)[1]} nats/token  ({_interval(bits)[1]} bits/byte)",
            f"  said at {forecast.time}, before {forecast.model} started",
            "",
        )

    def judged(self, verdict: "Verdict") -> None:
        where = (
            "inside the 80 % interval"
            if verdict.inside_80
            else "inside the 95 % interval, outside the 80 %"
            if verdict.inside_95
            else "outside the 95 % interval"
        )
        off = f"{abs(100 * verdict.error):.2f} % {'above' if verdict.error > 0 else 'below'}"
        width = f"+- {100 * verdict.half_width:.2f} %"
        self._say(
            "",
            f"{verdict.model} measured {n.loss(verdict.measured)} nats/token, {where}",
            f"  {off} the {n.loss(verdict.foretold)} foretold; the 95 % interval was {width}",
        )

    def _say(self, *lines: str) -> None:
        if not self._quiet:
            print(*lines, sep="\n", flush=True)


def _interval(said: "Forecast | Interval") -> tuple[str, str]:
    return (
        f"{n.loss(said.low_80)} to {n.loss(said.high_80)}",
        f"{n.loss(said.low_95)} to {n.loss(said.high_95)}",
    )
