"""What has happened to a run: alarms, checkpoints, results, what the studio did with it; and what it has printed."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from isoflop.pipeline.folder import RunFolder
from isoflop.report.run import Model
from isoflop.studio.places import Ordered
from isoflop.studio.process import look

# When, of which kind, in words.
Event = tuple[float, str, str]

# Of what the studio did with a run the newest are read, and of its log the last lines.
EVENT_BYTES = 8192
LOG_LINES, LOG_LINE_LETTERS = 12, 400


def note_event(ordered: Ordered, kind: str, told: str) -> None:
    """Keeps a line about the run. On a full disk there is none: the run itself goes on."""
    line = json.dumps({"time": time.time(), "kind": kind, "told": told}) + "\n"
    with contextlib.suppress(OSError), open(ordered.events, "a", encoding="utf-8") as file:
        file.write(line)


def of_studio(ordered: Ordered) -> list[Event]:
    """What the studio did with the run, and how its process ended last."""
    found: list[Event] = []
    for line in end_of(ordered.events, EVENT_BYTES).splitlines():
        try:
            event = json.loads(line)
            found.append((float(event["time"]), str(event["kind"]), str(event["told"])))
        except (ValueError, TypeError, KeyError):  # the first of them is cut
            continue
    process = look(ordered.process)
    if not process.alive and process.pid is not None:
        match process.code:
            case None:
                kind, told = "alarm", "its process has ended without a word"
            case 0:
                kind, told = "done", "its process has ended, its work done"
            case 130 | 143:
                kind, told = "stop", "its process has ended, everything saved"
            case code:
                kind, told = "alarm", f"its process has ended with exit code {code}"
        found.append((changed_at(ordered.process), kind, told))
    return found


def of_model(run: RunFolder, model: Model, alarms: Any, spikes: Any) -> list[Event]:
    """A model's alarms and spikes, as alarms.json and spikes.json hold them, or None; its checkpoints and result."""
    found: list[Event] = []
    folder = run.model(model.name)
    for alarm in _rows(alarms):
        found.append((float(alarm.get("time") or 0), "alarm", f"{model.name}: {alarm.get('message', '')}"))
    for spike in _rows(spikes.get("spikes") if isinstance(spikes, dict) else None):
        told = f"{model.name}: step {spike.get('step')}, {spike.get('kind')} spike; {spike.get('answer')}"
        found.append((changed_at(folder / "spikes.json"), "alarm", told))
    for one in (folder / "checkpoints").glob("gen-*[0-9]"):
        found.append((changed_at(one), "checkpoint", f"{model.name}: saved after step {int(one.name[4:]):,}"))
    if model.result:
        told = f"{model.name}: held-out loss {model.result.nats_per_token or 0:.3f} nats/token"
        found.append((changed_at(run.result(model.name)), "done", told))
    return found


def last_lines(run: RunFolder) -> str:
    """The end of what the run has printed last, here or in a job of a cluster."""
    path = max([Ordered(run.path / "studio").log, *run.logs.glob("job-*.txt")], key=changed_at)
    lines = end_of(path, LOG_LINES * LOG_LINE_LETTERS).splitlines()[-LOG_LINES:]
    return "\n".join(line[:LOG_LINE_LETTERS] for line in lines)


def end_of(path: Path, n_bytes: int) -> str:
    """The last bytes of a file as text; "" where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - n_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def changed_at(path: Path) -> float:
    """When a file was written last, in seconds since 1970; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _rows(document: Any) -> list[dict[str, Any]]:
    return [row for row in document if isinstance(row, dict)] if isinstance(document, list) else []
