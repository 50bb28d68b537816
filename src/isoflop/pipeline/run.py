"""All of it in order: plan, data, ladder, forecast, held-out model, comparison, report, releases."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.pipeline.comparison import keep_comparison
from isoflop.pipeline.data import check_corpus
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.forecast import Forecast, read_forecast
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.release import release_models
from isoflop.pipeline.report import report_run
from isoflop.pipeline.result import Result
from isoflop.pipeline.systems import train_on_systems
from isoflop.pipeline.train import make_ready, train_models
from isoflop.pipeline.verdict import Verdict, judge

if TYPE_CHECKING:
    from isoflop.recipe import Plan


@dataclass(frozen=True)
class Outcome:
    """What came of a family, and where it lies."""

    plan: "Plan"
    results: tuple[Result, ...]
    forecast: Forecast | None
    verdicts: tuple[Verdict, ...]
    report: Path
    releases: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """What `isoflop run --json` prints."""
        return {
            "family": self.plan.family,
            "plan": self.plan.to_json(),
            "results": [result.to_json() for result in self.results],
            "forecast": self.forecast.to_json() if self.forecast else None,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "report": str(self.report),
            "releases": [str(path) for path in self.releases],
        }


def run_family(
    family: Family, folder: RunFolder, listener: Listener, on_systems: Sequence[str] | None = None
) -> Outcome:
    """Does what is still missing of the family and tells what came of all of it.

    With `on_systems` given, that command of isoflop trains it on the family's systems; else this process does.

    Raises:
        InputError: the plan or the data cannot work, or the folder holds results of other settings.
        WorkError: a fault while working; everything done so far is kept.
    """
    check_corpus(family.data, folder)
    plan = make_plan(family, folder)
    listener.planned(plan)
    results = train_on_systems(family, folder, on_systems) if on_systems is not None else None
    with locked(folder):
        if results is None:
            data = make_ready(family, plan, plan.models, folder, listener)
            results = train_models(family, plan, data, folder, listener)
        verdicts = judge(plan, folder)
        for verdict in verdicts:
            listener.judged(verdict)
        keep_comparison(folder)
        page = report_run(folder.path)
        releases = release_models(family, plan, folder, listener)
    return Outcome(plan, tuple(results), read_forecast(folder), tuple(verdicts), page, tuple(releases))
