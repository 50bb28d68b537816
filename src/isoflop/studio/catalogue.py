"""The studio's database: what a listing shows of every run, kept so that no directory is read again unchanged.

The run directories are the truth: deleted, it is made again from them. Sessions are kept here too; without it everyone
signs in again.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.errors import WorkError
from isoflop.studio.order import Order, read_order
from isoflop.studio.places import Places
from isoflop.studio.process import Process, look

SCHEMA = """
create table if not exists runs (
    name text primary key, stamp text not null, owner text not null, shared integer not null, ordered text not null,
    priority integer not null, summary text not null
);
create table if not exists sessions (secret text primary key, account text not null, ends real not null);
"""


@dataclass(frozen=True)
class Listed:
    """A run in a listing. `order` is None where the command line started it."""

    name: str
    order: Order | None
    process: Process
    models: int
    done: int
    flops: float
    loss: float | None
    reported: bool
    seconds: float = 0.0
    joules: float | None = None

    @property
    def owner(self) -> str:
        return self.order.owner if self.order else ""

    @property
    def state(self) -> str:
        """One word for how the run stands."""
        order, process = self.order, self.process
        if order is None:
            return "running" if process.alive else "done" if self.models and self.done == self.models else "stopped"
        if process.alive:
            return "running" if order.wanted == "train" else "stopping"
        if process.code == 0 and (not order.cluster or self.reported):
            return "done"
        if order.wanted != "train":
            return "paused" if order.wanted == "pause" else "cancelled"
        # A cluster's job trains; the report and the releases are made here, once it has.
        if process.code == 0:
            return "at the cluster" if self.done < self.models else "queued"
        # Nothing was started yet, or it was told to save and go on with other systems.
        if process.pid is None or process.code in (130, 143):
            return "queued"
        return "failed"


class Catalogue:
    """Safe between threads: each call opens the file for itself."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        places.make_home()
        try:
            with self._open() as database:
                database.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            places.database.unlink(missing_ok=True)  # it holds nothing that is not elsewhere
            with self._open() as database:
                database.executescript(SCHEMA)

    def runs(self) -> list[Listed]:
        """All runs, newest first."""
        names = self._places.names()
        with self._lock, self._open() as database:
            kept = {row[0]: row[1:] for row in database.execute("select name, stamp, summary from runs")}
            found = []
            for name in names:
                stamp = self._stamp(name)
                order = read_order(self._places.ordered(name).order)
                if name in kept and kept[name][0] == stamp:
                    summary = json.loads(kept[name][1])
                else:
                    summary = self._summary(name)
                    database.execute(
                        "replace into runs values (?, ?, ?, ?, ?, ?, ?)",
                        (
                            name,
                            stamp,
                            order.owner if order else "",
                            bool(order and order.shared),
                            order.ordered if order else "",
                            order.priority if order else 0,
                            json.dumps(summary),
                        ),
                    )
                found.append(self._listed(name, order, summary))
            for gone in kept.keys() - set(names):
                database.execute("delete from runs where name = ?", (gone,))
        return sorted(found, key=lambda run: (run.order.ordered if run.order else "", run.name), reverse=True)

    def run(self, name: str) -> Listed | None:
        """One run as it is now; None where there is none."""
        folder, ordered = self._places.run(name), self._places.ordered(name)
        order = read_order(ordered.order)
        if order is None and not folder.plan.is_file():
            return None
        return self._listed(name, order, self._summary(name))

    def _listed(self, name: str, order: Order | None, summary: dict[str, Any]) -> Listed:
        if order is not None:
            process = look(self._places.ordered(name).process)
        else:
            process = Process(None, _at_work(self._places.run(name).path / "lock"), None)
        return Listed(name, order, process, **summary)

    def _stamp(self, name: str) -> str:
        folder = self._places.run(name).path
        seen = ["2"]  # the format of what is kept: a database of an earlier one is read anew
        for path in (
            folder / "plan.json",
            folder / "report.html",
            folder / "studio" / "order.json",
            *sorted(folder.glob("models/*")),
        ):
            try:
                seen.append(str(path.stat().st_mtime_ns))
            except OSError:
                seen.append("")
        return " ".join(seen)

    def _summary(self, name: str) -> dict[str, Any]:
        folder = self._places.run(name)
        try:
            plan = json.loads(folder.plan.read_bytes())
            models = [(str(one["name"]), float(one["flops"])) for one in plan["models"]]
        except (OSError, ValueError, TypeError, KeyError):
            order = read_order(self._places.ordered(name).order)
            models = [(one["name"], one["flops"]) for one in order.quote.get("models", [])] if order else []
        done, loss, seconds = 0, None, 0.0
        joules: float | None = 0.0
        for model, _ in models:
            try:
                result = json.loads(folder.result(model).read_bytes())
                done, loss = done + 1, float(result["nats_per_token"])
                seconds += float(result.get("seconds") or 0.0)
                joules = None if joules is None or result.get("joules") is None else joules + float(result["joules"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
        flops = sum(flops for _, flops in models)
        return {
            "models": len(models),
            "done": done,
            "flops": flops,
            "loss": loss,
            "reported": folder.report.is_file(),
            "seconds": seconds,
            "joules": joules if done else None,
        }

    # Sessions.

    def begin_session(self, secret_hash: str, account: str, seconds: float) -> None:
        with self._lock, self._open() as database:
            database.execute("delete from sessions where ends < ?", (time.time(),))
            database.execute("replace into sessions values (?, ?, ?)", (secret_hash, account, time.time() + seconds))

    def session(self, secret_hash: str) -> str | None:
        """The account that the session is of; None where it is over."""
        with self._open() as database:
            row = database.execute(
                "select account from sessions where secret = ? and ends > ?", (secret_hash, time.time())
            ).fetchone()
        return str(row[0]) if row else None

    def end_sessions(self, secret_hash: str | None = None, account: str | None = None) -> None:
        """Ends one session, or all of an account."""
        with self._lock, self._open() as database:
            database.execute("delete from sessions where secret = ? or account = ?", (secret_hash, account))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._places.database, timeout=10)
        except sqlite3.OperationalError as error:
            raise WorkError(f"{self._places.database}: cannot open ({error}); check the folder") from None
        try:
            with database:
                yield database
        except sqlite3.OperationalError as error:
            raise WorkError(f"{self._places.database}: cannot write ({error}); no run is lost") from None
        finally:
            database.close()


def names_of(runs: Sequence[Listed]) -> list[str]:
    return [run.name for run in runs]


def _at_work(lock: Path) -> bool:
    """Whether the process that a run's lock names is alive: a look at the lock itself could disturb who takes it."""
    try:
        pid = int(lock.read_text())
        return "isoflop" in Path(f"/proc/{pid}/cmdline").read_text()
    except (OSError, ValueError):
        return False
