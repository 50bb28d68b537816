"""A model while it trains: a live line on a terminal, a plain line every few seconds elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from isoflop.cli import numbers as n

if TYPE_CHECKING:
    from isoflop.recipe import ModelPlan
    from isoflop.train import Step

_PLAIN_SECONDS = 5.0
_LIVE_SECONDS = 0.2


class Progress(Protocol):
    """Shows one model after the other on standard error."""

    def starts(self, model: "ModelPlan") -> None: ...

    def step(self, model: "ModelPlan", step: "Step") -> None: ...

    def note(self, line: str) -> None: ...

    def ends(self) -> None:
        """The model is done, or the work was stopped."""


def make_progress() -> Progress:
    """What standard error can show."""
    return LiveProgress() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else PlainProgress()


class PlainProgress:
    """Lines for logs: the first step, one every five seconds, and the last."""

    def __init__(self) -> None:
        self._shown_at = 0.0
        self._waiting = ""

    def starts(self, model: "ModelPlan") -> None:
        self.note(f"{model.name}: starts")
        self._shown_at, self._waiting = 0.0, ""

    def step(self, model: "ModelPlan", step: "Step") -> None:
        now = time.monotonic()
        facts = _facts(step, first=not self._shown_at)
        line = f"{model.name}: step {step.step:,}/{step.steps:,}  {facts}"
        if now - self._shown_at >= _PLAIN_SECONDS:
            self.note(line)
            self._shown_at, self._waiting = now, ""
        else:
            self._waiting = line

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def ends(self) -> None:
        if self._waiting:
            self.note(self._waiting)
        self._waiting = ""


class LiveProgress:
    """One line that renews itself."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._console = Console(file=sys.stderr, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        # The thread that redraws shares two cores with the training.
        self._make: Callable[[], Bar] = lambda: Bar(
            *columns, console=self._console, transient=True, refresh_per_second=4
        )
        self._bar: Bar | None = None
        self._shown_at = 0.0

    def starts(self, model: "ModelPlan") -> None:
        self.ends()
        self._bar = self._make()
        self._task = self._bar.add_task(model.name, total=model.steps, facts="starts")
        self._bar.start()
        self._shown_at = 0.0

    def step(self, model: "ModelPlan", step: "Step") -> None:
        now = time.monotonic()
        if self._bar is not None and (now - self._shown_at >= _LIVE_SECONDS or step.step == step.steps):
            self._bar.update(self._task, completed=step.step, facts=_facts(step, first=not self._shown_at))
            self._shown_at = now

    def note(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)

    def ends(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def _facts(step: "Step", first: bool) -> str:
    """The first step compiles: it says nothing of the time left."""
    facts = [
        f"{n.count(step.tokens_per_second)} tokens/s",
        f"loss {n.loss(step.loss)}",
        f"{n.percent(step.mfu)} of peak",
        f"{n.duration(None if first else step.seconds_left)} left",
    ]
    return "  ".join(facts)
