"""Who hears what the pipeline does: the terminal, or nobody."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from isoflop.law import Law
    from isoflop.pipeline.forecast import Forecast
    from isoflop.pipeline.result import Result
    from isoflop.pipeline.verdict import Verdict
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.train import Step


class TrainingListener(Protocol):
    """Hears of one model's training; of several models by turns where they train side by side."""

    def note(self, line: str) -> None:
        """Something worth knowing, in one line."""

    def starts(self, model: "ModelPlan") -> None:
        """A model starts or goes on."""

    def step(self, model: "ModelPlan", step: "Step") -> None:
        """It made a step."""

    def done(self, result: "Result", fresh: bool) -> None:
        """A model has its result: just now, or (not fresh) from an earlier run."""


class Listener(TrainingListener, Protocol):
    """Called in the order in which things happen; what it does with them is its own affair."""

    def planned(self, plan: "Plan") -> None:
        """The plan stands; nothing has been trained yet."""

    def fitted(self, law: "Law") -> None:
        """The law stands on the ladder's results."""

    def foretold(self, forecast: "Forecast") -> None:
        """What the law says of the held-out model."""

    def judged(self, verdict: "Verdict") -> None:
        """What the held-out model says of the law."""
