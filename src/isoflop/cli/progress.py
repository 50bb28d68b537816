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
    """Shows the models that train on standard error."""

    def starts(self, model: "ModelPlan") -> None: ...

    def step(self, model: "ModelPlan", step: "Step") -> None: ...

    def note(self, line: str) -> None: ...

    def ends(self, name: str | None = None) -> None:
        """The model of that name is done; without one, the work was stopped."""


def make_progress() -> Progress:
    """What standard error can show."""
    return LiveProgress() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else PlainProgress()


class PlainProgress:
    """Lines for logs: of each model its first step, one every five seconds, and the last."""

    def __init__(self) -> None:
        self._shown_at: dict[str, float] = {}
        self._waiting: dict[str, str] = {}

    def starts(self, model: "ModelPlan") -> None:
        self.note(f"{model.name}: starts")

    def step(self, model: "ModelPlan", step: "Step") -> None:
        now, shown_at = time.monotonic(), self._shown_at.get(model.name)
        line = f"{model.name}: step {step.step:,}/{step.steps:,}  {_facts(step, first=shown_at is None)}"
        if shown_at is None or now - shown_at >= _PLAIN_SECONDS:
            self.note(line)
            self._shown_at[model.name] = now
            self._waiting.pop(model.name, None)
        else:
            self._waiting[model.name] = line

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def ends(self, name: str | None = None) -> None:
        for one in [name] if name is not None else list(self._waiting):
            if one in self._waiting:
                self.note(self._waiting.pop(one))


class LiveProgress:
    """A line for each model that trains, renewing itself."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
        from rich.progress import Progress as Bar

        self._console = Console(file=sys.stderr, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        # The thread that redraws shares the cores with the training.
        self._make: Callable[[], Bar] = lambda: Bar(
            *columns, console=self._console, transient=True, refresh_per_second=4
        )
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown_at: dict[str, float] = {}

    def starts(self, model: "ModelPlan") -> None:
        if self._bar is None:
            self._bar = self._make()
            self._bar.start()
        self._tasks[model.name] = self._bar.add_task(model.name, total=model.steps, facts="starts")

    def step(self, model: "ModelPlan", step: "Step") -> None:
        now, shown_at = time.monotonic(), self._shown_at.get(model.name)
        due = shown_at is None or now - shown_at >= _LIVE_SECONDS or step.step == step.steps
        if self._bar is not None and model.name in self._tasks and due:
            facts = _facts(step, first=shown_at is None)
            self._bar.update(self._tasks[model.name], completed=step.step, facts=facts)
            self._shown_at[model.name] = now

    def note(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)

    def ends(self, name: str | None = None) -> None:
        for one in [name] if name is not None else list(self._tasks):
            task = self._tasks.pop(one, None)
            if self._bar is not None and task is not None:
                self._bar.remove_task(task)
        if self._bar is not None and not self._tasks:
            self._bar.stop()
            self._bar = None


def _facts(step: "Step", first: bool) -> str:
    """The first step warms up: it says nothing of the time left."""
    facts = [
        f"{n.count(step.tokens_per_second)} tokens/s",
        f"loss {n.loss(step.loss)}",
        f"{n.percent(step.mfu)} of peak",
        f"{n.duration(None if first else step.seconds_left)} left",
    ]
    return "  ".join(facts)
