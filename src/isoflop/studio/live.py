"""A run as it stands: what its files say, read again only where they changed, and the same for all who watch it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.durable import refuse_broken_seal
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.report.metrics import MetricsLog
from isoflop.report.records import Forecast, Plan, Result
from isoflop.report.run import Model
from isoflop.studio.events import Event, changed_at, last_lines, of_model, of_studio
from isoflop.studio.money import trained_seconds
from isoflop.studio.places import Ordered, Places
from isoflop.studio.process import look

if TYPE_CHECKING:
    from isoflop.law.watch import Standing, Watch
    from isoflop.pipeline.watch import Tracks

# Between two looks at the files, and between two drawings: a drawing takes some hundredths of a second of one core,
# however many watch.
LOOK_SECONDS, DRAW_SECONDS = 1.0, 5.0
# A proxy ends a connection that says nothing; after so long a watcher comes again, and is asked again who it is.
QUIET_SECONDS, STREAM_SECONDS = 15.0, 900.0
MOST_EVENTS = 14


@dataclass(frozen=True)
class Snapshot:
    """What is shown of a run. `watches` and `standing` by model, of those that train: what finished ones lead to
    expect, and where each stands beside that; `off_track` names those that are outside of it, or were told of by an
    alarm. `log` is the end of what was printed."""

    name: str
    plan: Plan | None
    models: tuple[Model, ...]
    forecast: Forecast | None
    events: tuple[Event, ...]
    watches: "dict[str, Watch]"
    standing: "dict[str, Standing]"
    off_track: frozenset[str]
    joules: float | None
    joules_origin: str
    seconds: float
    price: float | None
    currency: str
    log: str


@dataclass
class Live:
    """One run's files, and the part of a page that shows them."""

    folder: RunFolder
    _documents: dict[Path, tuple[int, Any]] = field(default_factory=dict)
    _logs: dict[Path, MetricsLog] = field(default_factory=dict)
    _tracks: "tuple[int, Tracks] | None" = None
    _why_no_track: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def version(self) -> str:
        """Another text whenever something that is shown is another."""
        ordered = self.folder.path / "studio"
        # Not by the time of a file: a process leaves its exit code a moment before it is gone.
        seen = [str(look(ordered / "process"))]
        for path in (
            ordered / "order.json",
            ordered / "events.jsonl",
            ordered / "log.txt",
            self.folder.plan,
            self.folder.forecast,
            self.folder.report,
            *self._model_files(),
            *sorted(self.folder.logs.glob("job-*.txt")),
        ):
            try:
                status = path.stat()
                seen.append(f"{path.name} {status.st_mtime_ns} {status.st_size}")
            except OSError:
                continue
        return str(hash(tuple(seen)))

    def read(self) -> Snapshot:
        """The run as it is now; what cannot be read is left out."""
        with self._lock:
            return self._read()

    def _read(self) -> Snapshot:
        plan = self._record(self.folder.plan, Plan)
        models = tuple(self._model(planned) for planned in (plan.models if plan else ()))
        results = [model.result for model in models if model.result]
        joules = [result.joules for result in results]
        running = [model for model in models if model.metrics is not None and model.result is None]
        joules += [self._last(model.name).get("joules") for model in running]
        known = [one for one in joules if one is not None]
        watches = self._watches(models)
        standing = {name: watch.standing() for name, watch in watches.items()}
        seconds = sum(result.seconds or 0.0 for result in results)
        seconds += sum(trained_seconds(model.metrics) for model in running if model.metrics is not None)
        return Snapshot(
            name=self.folder.path.name,
            plan=plan,
            models=models,
            forecast=self._record(self.folder.forecast, Forecast),
            events=tuple(self._events(models)),
            watches=watches,
            standing=standing,
            off_track=frozenset(name for name, one in standing.items() if self._is_off(name, one)),
            joules=sum(known) if known and len(known) == len(joules) else None,
            joules_origin=next((result.joules_origin for result in results if result.joules_origin), "") or "",
            seconds=seconds,
            price=_price(plan, seconds),
            currency=(plan.currency if plan else None) or "",
            log=last_lines(self.folder),
        )

    def _model(self, planned: Any) -> Model:
        path = self.folder.model(planned.name) / "metrics.jsonl"
        metrics = self._logs.setdefault(path, MetricsLog(path)).read()
        result = self._record(self.folder.result(planned.name), Result)
        return Model(planned.name, planned.size or planned.name, planned.held_out, planned, metrics, result)

    def _last(self, name: str) -> dict[str, Any]:
        """The last whole line of a log."""
        path = self.folder.model(name) / "metrics.jsonl"
        try:
            with open(path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                last = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
            found: dict[str, Any] = json.loads(last[-1])
            return found
        except (OSError, ValueError, IndexError):
            return {}

    def _events(self, models: tuple[Model, ...]) -> list[Event]:
        found = of_studio(Ordered(self.folder.path / "studio"))
        for model in models:
            folder = self.folder.model(model.name)
            alarms, spikes = self._document(folder / "alarms.json"), self._document(folder / "spikes.json")
            found += of_model(self.folder, model, alarms, spikes)
        if self.folder.forecast.is_file():
            found.append((changed_at(self.folder.forecast), "forecast", "the held-out model's loss is foretold"))
        return sorted(found, reverse=True)[:MOST_EVENTS]

    def _watches(self, models: tuple[Model, ...]) -> "dict[str, Watch]":
        """Of the models that train now, where enough are finished."""
        training = [model for model in models if model.result is None and model.metrics is not None]
        watched = {model.name: self.watch(model) for model in training}
        return {name: watch for name, watch in watched.items() if watch is not None}

    def _is_off(self, name: str, standing: "Standing") -> bool:
        alarms = self._document(self.folder.model(name) / "alarms.json")
        return bool(alarms) or not standing.low <= standing.loss <= standing.high

    def watch(self, model: Model) -> "Watch | None":
        """What is expected of a model, having seen its steps; None where too few runs are finished."""
        from isoflop.law.watch import Watch
        from isoflop.pipeline.plan import stored_plan
        from isoflop.pipeline.watch import Tracks, planned_rate

        metrics = model.metrics
        if metrics is None or not (metrics.loss > 0).all():
            return None
        try:
            _, plan = stored_plan(self.folder)
            planned = next(one for one in plan.models if one.name == model.name)
            done = sum(self.folder.result(one.name).exists() for one in plan.models)
            if self._tracks is None or self._tracks[0] != done:
                self._tracks = (done, Tracks(self.folder, plan))
            track = self._tracks[1].of(planned)
            self._why_no_track = ""
            watch = Watch(track, model.name, float(planned.shape.params), planned_rate(planned))
        except (InputError, WorkError) as error:
            self._why_no_track = str(error)
            return None
        except StopIteration:
            return None
        watch.follow(metrics.tokens / planned.tokens, metrics.loss, np.diff(metrics.tokens, prepend=0.0))
        return watch

    def why_no_watch(self) -> str:
        """Why the last `watch` found nothing to expect."""
        return self._why_no_track or "what to expect of its curve is known once six other models are finished"

    def _model_files(self) -> list[Path]:
        names = ("metrics.jsonl", "result.json", "alarms.json", "spikes.json")
        return [path for name in names for path in sorted(self.folder.path.glob(f"models/*/{name}"))]

    def _record(self, path: Path, kind: Any) -> Any:
        document = self._document(path)
        try:
            return None if document is None else kind.model_validate(document)
        except ValueError:
            return None

    def _document(self, path: Path) -> Any:
        """The JSON in a file, parsed once for each time that it is written; None if it has changed since."""
        try:
            stamp = path.stat().st_mtime_ns
            kept = self._documents.get(path)
            if kept is None or kept[0] != stamp:
                kept = self._documents[path] = (stamp, refuse_broken_seal(json.loads(path.read_bytes())))
            return kept[1]
        except (OSError, ValueError, RecursionError):
            return None


class Lives:
    """The runs that are looked at, and those who watch them: each is looked at once a second, for all together.

    `said` tells what is known of a run beside its files.
    """

    def __init__(self, places: Places, draw: Callable[[Live], str], said: Callable[[str], str] = lambda _: "") -> None:
        self._places, self._draw, self._said = places, draw, said
        self._lives: dict[str, Live] = {}
        self._pumps: dict[str, _Pump] = {}

    def of(self, name: str) -> Live:
        """The run's files."""
        if name not in self._lives:
            self._lives[name] = Live(self._places.run(name))
        return self._lives[name]

    async def events(self, name: str) -> AsyncIterator[bytes]:
        """Server-sent events: the live part of the run's page, whenever it has changed."""
        pump = self._pumps.setdefault(name, _Pump(self.of(name), self._draw, self._said))
        pump.watchers += 1
        if pump.task is None or pump.task.done():
            pump.task = asyncio.create_task(pump.run())
        seen, ends = -1, time.monotonic() + STREAM_SECONDS
        try:
            yield b"retry: 2000\n\n"
            while time.monotonic() < ends:
                news = await pump.after(seen)
                if news is None and pump.task.done():  # a fault of ours, told in the log: the page comes again
                    return
                if news is None:
                    yield b": nothing new\n\n"
                else:
                    seen, text = news
                    yield text
        finally:
            pump.watchers -= 1


class _Pump:
    """Draws the live part of a page while someone watches."""

    def __init__(self, live: Live, draw: Callable[[Live], str], said: Callable[[str], str]) -> None:
        self._live, self._draw, self._said = live, draw, said
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None
        self._number, self._text = 0, b""
        self._news = asyncio.Event()

    async def run(self) -> None:
        version, drawn = "", 0.0
        while self.watchers:
            now = await asyncio.to_thread(self._live.version) + self._said(self._live.folder.path.name)
            if now != version and time.monotonic() - drawn >= DRAW_SECONDS:
                version, drawn = now, time.monotonic()
                try:
                    html = await asyncio.to_thread(self._draw, self._live)
                except (InputError, WorkError, OSError):  # a full disk, say: drawn again when something has changed
                    continue
                text = "event: live\n" + "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
                self._number, self._text = self._number + 1, text.encode()
                heard, self._news = self._news, asyncio.Event()
                heard.set()
            await asyncio.sleep(LOOK_SECONDS)

    async def after(self, seen: int) -> tuple[int, bytes] | None:
        """The newest text and its number, once there is another than `seen`; None after a while without."""
        if self._number in (0, seen):
            # An event and no condition: a watcher who leaves while it waits leaves no lock behind.
            try:
                await asyncio.wait_for(self._news.wait(), QUIET_SECONDS)
            except TimeoutError:
                return None
        return self._number, self._text


def _price(plan: Plan | None, seconds: float) -> float | None:
    """Of so many seconds, at what the plan pays for its own; None without a price."""
    priced = [
        (one.price, one.seconds) for one in (plan.models if plan else ()) if one.price is not None and one.seconds
    ]
    if not priced:
        return None
    return seconds * sum(float(price) for price, _ in priced) / sum(float(time) for _, time in priced)
