"""Is a training model on its track? Its loss beside the curve that the family's finished runs lead to expect.

It warns and never stops a run. In training the warnings are heard as notes; they are kept in models/<name>/alarms.json.
"""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from isoflop.durable import write_json
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.listener import TrainingListener
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import read_result
from isoflop.recipe.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isoflop.law.forms import Array
    from isoflop.law.track import Record, Track
    from isoflop.law.watch import Alarm, Standing
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.train import Step

# The rate is told to the track at so many even shares of a run.
CELLS = 400
# Of the run: when training says where it stands.
TOLD_AT = (0.25, 0.5, 0.75)
# Finished runs that lead what is expected of another: those nearest to it in size. More of them tell hardly more and
# take their square of time, as does looking at the finished ones too.
MOST_LEADING = 64
# A rate is the planned one to this part: it is written with all its digits.
SAME_RATE = 1e-6
# A loss is a mean over a tenth of the steps so far, and no fewer than these.
LEVEL_STEPS = 8


@dataclass(frozen=True)
class Watched:
    """A model of a run directory after `step` of its `steps`: its loss (mean over the last tenth of them, nats/token),
    where it stands beside finished runs (None and `untracked` why, where they are too few), and its alarms so far."""

    model: str
    step: int
    steps: int
    loss: float
    finished: bool
    off_track: bool
    standing: "Standing | None"
    untracked: str
    alarms: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """What `isoflop watch --json` says of it."""
        return {**asdict(self), "alarms": list(self.alarms)}


def watch_run(path: Path, only: str | None = None) -> list[Watched]:
    """Every model of the run directory that has made steps (or the one named `only`), smallest first; each beside the
    finished ones other than it, where those are enough, and beside its plan. Of more than `MOST_LEADING` finished ones
    none is looked at itself unless it is named.

    Raises:
        InputError: no such run or model, or nothing trains there.
        WorkError: a model's log is damaged.
    """
    folder = find_run(path)
    _, plan = stored_plan(folder)
    names = [model.name for model in plan.models]
    if only is not None and only not in names:
        raise InputError(f"--model {only}: no such model in family {plan.family}; use one of {', '.join(names)}")
    found = []
    done = {model.name for model in plan.models if read_result(folder, model.name) is not None}
    tracks = Tracks(folder, plan)
    for model in plan.models:
        if only not in (None, model.name) or (only is None and model.name in done and len(done) > MOST_LEADING):
            continue
        log = _steps_of(folder, model)
        if log is None:
            continue
        untracked = ""
        try:
            watching = ModelWatch(tracks.of(model), model)
        except InputError as error:
            watching, untracked = ModelWatch(None, model), str(error)
        alarms = [alarm for step in log for alarm in watching.see(*step)]
        standing = None if watching.watch is None else watching.watch.standing()
        last = [step[1] for step in log[-max(LEVEL_STEPS, len(log) // 10) :]]
        found.append(
            Watched(
                model=model.name,
                step=len(log),
                steps=model.steps,
                loss=fmean(last) if standing is None else standing.loss,
                finished=model.name in done,
                off_track=watching.off_track,
                standing=standing,
                untracked=untracked,
                alarms=tuple(alarms),
            )
        )
    if not found and len(done) > MOST_LEADING:
        raise InputError(
            f"{folder.path}: {len(done)} models are finished and none trains; name one with --model to look back at it"
        )
    if not found:
        raise InputError(f"{folder.path}: {only or 'a model'} has made no step yet; start isoflop train")
    return found


class Tracks:
    """What the finished runs of a family lead to expect of others; each log is read once."""

    def __init__(self, folder: RunFolder, plan: "Plan") -> None:
        self._folder, self._plan = folder, plan
        self._records: dict[str, Record | None] = {}
        self._tracks: dict[tuple[str, ...], Track] = {}

    def of(self, model: "ModelPlan") -> "Track":
        """Of the finished runs nearest to `model` in size, other than itself.

        Raises:
            InputError: they are too few.
            WorkError: the run's tokens have changed or cannot be read.
        """
        from isoflop.law.track import Track
        from isoflop.pipeline.law import ceiling_of

        size = math.log(model.shape.params)
        others = [other for other in self._plan.models if other.name != model.name]
        others.sort(key=lambda other: abs(math.log(other.shape.params) - size))
        found = islice(filter(None, (self._record(other) for other in others)), MOST_LEADING)
        leading = {record.run: record for record in found}
        names = tuple(other.name for other in self._plan.models if other.name in leading)
        if names not in self._tracks:
            self._tracks[names] = Track([leading[name] for name in names], ceiling_of(self._folder))
        return self._tracks[names]

    def _record(self, model: "ModelPlan") -> "Record | None":
        if model.name not in self._records:
            self._records[model.name] = _record(self._folder, model)
        return self._records[model.name]


def track_of(folder: RunFolder, plan: "Plan", model: "ModelPlan") -> "Track":
    """`Tracks` for one model.

    Raises:
        InputError: the others are too few.
        WorkError: the run's tokens have changed or cannot be read.
    """
    return Tracks(folder, plan).of(model)


class TrainingWatch:
    """Hears every step of a model in training, warns, and says at every quarter where it stands."""

    def __init__(self, plan: "Plan", model: "ModelPlan", folder: RunFolder, listener: TrainingListener) -> None:
        self._plan, self._model, self._folder, self._listener = plan, model, folder, listener
        self._watching: ModelWatch | None = None
        self._alarms: list[dict[str, Any]] = []
        self._begun = False

    def step(self, step: "Step") -> None:
        """As `TrainingListener.step`, which hears it too."""
        self._listener.step(self._model, step)
        if not self._begun:
            self._begun = True
            self._begin(step.step)
        assert self._watching is not None
        before = (step.tokens - self._watching.step_tokens(step.tokens)) / step.total_tokens
        for alarm in self._watching.see(step.tokens, step.loss, step.lr, len(step.unreached), step.unreached):
            self._alarms.append(alarm | {"time": step.time})
            write_json(_alarms(self._folder, self._model.name), self._alarms)
            self._listener.note(f"warning: {self._model.name}: {alarm['message']}")
        watch = self._watching.watch
        if watch is not None and any(before < share <= step.tokens / step.total_tokens for share in TOLD_AT):
            self._listener.note(f"{self._model.name}: {told(watch.standing())}")

    def _begin(self, first_step: int) -> None:
        """The finished runs so far lead what is expected; of a run that goes on, the steps made before count."""
        try:
            self._watching = ModelWatch(track_of(self._folder, self._plan, self._model), self._model)
        except (InputError, WorkError):  # too few have finished; training itself says what is damaged
            self._watching = ModelWatch(None, self._model)
        with suppress(WorkError):
            for step in (_steps_of(self._folder, self._model) or [])[: first_step - 1]:
                self._watching.see(*step)
        try:
            kept = json.loads(_alarms(self._folder, self._model.name).read_bytes())
            self._alarms = [alarm for alarm in kept if alarm["step"] < first_step]
        except (OSError, ValueError, TypeError, KeyError):
            self._alarms = []


def told(standing: "Standing") -> str:
    """Where a run stands, in one line."""
    s = standing
    return (
        f"{100 * s.progress:.0f} %: loss {s.loss:.3f}, expected {s.expected:.3f} ({s.low:.3f} to {s.high:.3f}), "
        f"{s.deviation:+.1f} sd; held-out loss at the end {s.final:.3f} (95 %: {s.final_low_95:.3f} to "
        f"{s.final_high_95:.3f})"
    )


class ModelWatch:
    """One model's steps beside the track, where there is one; its rates beside the plan; matrices without gradient."""

    def __init__(self, track: "Track | None", model: "ModelPlan") -> None:
        from isoflop.law.watch import Watch

        self.watch: Watch | None = None
        if track is not None:
            self.watch = Watch(track, model.name, float(model.shape.params), planned_rate(model))
        self._model, self._tokens, self._steps = model, 0.0, 0
        self._wrong_rate, self._unreached = False, 0

    @property
    def off_track(self) -> bool:
        return (self.watch is not None and self.watch.off_track) or self._wrong_rate or self._unreached > 0

    def step_tokens(self, tokens: float) -> float:
        """Of the step that has brought the run to `tokens` tokens"""
        return tokens - self._tokens

    def see(
        self, tokens: float, loss: float, lr: float, unreached: int = 0, names: "Sequence[str]" = ()
    ) -> list[dict[str, Any]]:
        """One more step; the alarms that it gives, as alarms.json has them.

        `unreached` matrices had no gradient, called `names` where that is known: dead ones, told once.
        """
        alarm = None
        if self.watch is not None:
            alarm = self.watch.see(tokens / self._model.tokens, loss, self.step_tokens(tokens))
        self._tokens, self._steps = tokens, self._steps + 1
        found = [] if alarm is None else [{**asdict(alarm), "message": _message(alarm)}]
        planned, step = _planned(self._model, tokens), self._steps
        was, self._wrong_rate = self._wrong_rate, abs(lr - planned) > SAME_RATE * self._model.peak_lr
        if self._wrong_rate and not was:
            message = f"step {step:,}: learning rate {lr:.3g}, planned is {planned:.3g}: another schedule than planned"
            found.append({"step": step, "kind": "rate", "message": message, "lr": lr, "planned_lr": planned})
        if unreached > self._unreached:
            called = f" ({', '.join(name.removeprefix('transformer.') for name in names)})" if names else ""
            message = f"step {step:,}: no gradient reaches {unreached} of the layers' matrices{called}; they are dead: "
            message += "look at the weights that follow them"
            found.append({"step": step, "kind": "dead", "message": message, "unreached": unreached})
            self._unreached = unreached
        return found


def _message(alarm: "Alarm") -> str:
    away = f"{abs(alarm.deviation):.1f} sd {'above' if alarm.deviation > 0 else 'below'}"
    if alarm.kind == "level":
        return (
            f"step {alarm.step:,}: loss {alarm.loss:.3f} is {away} the expected {alarm.expected:.3f}, healthy runs "
            f"stay within {alarm.limit:.1f}; look at its rate, data and layers"
        )
    return (
        f"step {alarm.step:,}: over its last {alarm.steps} steps the loss moved {away} what came before, healthy runs "
        f"stay within {alarm.limit:.1f}; look at its rate, data and layers"
    )


def _record(folder: RunFolder, model: "ModelPlan") -> "Record | None":
    """A finished run with the log of all its steps"""
    from isoflop.law.track import Record
    from isoflop.report.metrics import read_metrics

    result, metrics = read_result(folder, model.name), read_metrics(folder.model(model.name) / "metrics.jsonl")
    if result is None or metrics is None or len(metrics.tokens) != result.steps:
        return None
    if not (metrics.loss > 0).all():
        return None
    import numpy as np

    return Record(
        run=model.name,
        params=float(result.params),
        progress=metrics.tokens / metrics.tokens[-1],
        loss=metrics.loss,
        step_tokens=np.diff(metrics.tokens, prepend=0.0),
        rate=planned_rate(model),
        final=result.nats_per_token,
    )


def _steps_of(folder: RunFolder, model: "ModelPlan") -> list[tuple[float, float, float, int]] | None:
    """Of each step logged so far: tokens, loss, rate, matrices without gradient

    Raises:
        WorkError: lines of the log have changed since they were written.
    """
    from isoflop.report.metrics import MetricsLog

    path = folder.model(model.name) / "metrics.jsonl"
    log = MetricsLog(path)
    metrics = log.read()
    if log.damage:
        raise WorkError(f"{path}: {log.damage}; bring it back from a copy, or name another model with --model")
    if metrics is None or not (metrics.loss > 0).all():
        return None
    unreached = [0 if math.isnan(number) else int(number) for number in metrics.unreached.tolist()]
    return list(zip(metrics.tokens.tolist(), metrics.loss.tolist(), metrics.lr.tolist(), unreached, strict=True))


def planned_rate(model: "ModelPlan") -> "Array":
    """(CELLS): planned learning rate over its peak, at even shares of the run"""
    import numpy as np

    return np.array([_planned(model, model.tokens * (i + 1) / CELLS) for i in range(CELLS)]) / model.peak_lr


def _planned(model: "ModelPlan", tokens: float) -> float:
    return learning_rate(
        tokens,  # type: ignore[arg-type]
        tokens=model.tokens,
        warmup_tokens=model.warmup_tokens,
        peak_lr=model.peak_lr,
        final_lr_fraction=model.final_lr_fraction,
        decay=model.decay,
    )


def _alarms(folder: RunFolder, name: str) -> Path:
    return folder.model(name) / "alarms.json"
