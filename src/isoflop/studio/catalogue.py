"""The studio's database: what a listing shows of every run, kept so that no directory is read again unchanged.

The run directories are the truth: deleted, it is made again from them. Sessions are kept here too; without it everyone
signs in again.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.errors import WorkError
from isoflop.studio.order import Order, read_order
from isoflop.studio.places import Places
from isoflop.studio.process import Process, look

FORMAT = 3
SCHEMA = f"""
begin immediate;
drop table if exists runs;
create table runs (name text primary key, stamp text not null, summary text not null);
create table if not exists sessions (secret text primary key, account text not null, ends real not null);
pragma user_version = {FORMAT};
commit;
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
    price: float | None = None

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


# States that end only when someone tells the run something.
SETTLED = ("done", "paused", "cancelled", "failed")
# What was read of a run that was not.
_NOTHING: tuple[str, Order | None, dict[str, Any]] = ("", None, {})


class Catalogue:
    """Safe between threads: each call opens the file for itself."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        places.make_home()
        self._read: dict[str, tuple[str, Order | None, dict[str, Any]]] = {}
        self._orders: dict[str, tuple[str, Order | None]] = {}
        self._settled: dict[str, str] = {}

    def runs(self) -> list[Listed]:
        """All runs, newest first. What has not changed since the last look is not read again."""
        found = self._now(self._places.names())
        return sorted(found, key=lambda run: (run.order.ordered if run.order else "", run.name), reverse=True)

    def unsettled(self) -> list[Listed]:
        """The ordered runs that are at work or wait, in no order: few, whatever the number of all."""
        stamps = {
            name: f"{self._orders[name][0]} {_touched(f'{self._places.runs}/{name}/studio/process')}"
            for name, order in self.orders().items()
            if order is not None
        }
        names = [name for name, stamp in stamps.items() if self._settled.get(name) != stamp]
        found = []
        for run in self._now(names):
            if run.state in SETTLED:
                self._settled[run.name] = stamps[run.name]
            else:
                found.append(run)
        return found

    def _now(self, names: Sequence[str]) -> list[Listed]:
        with self._lock:
            stamps = {name: self._stamp(name) for name in names}
            changed = [name for name in names if self._read.get(name, _NOTHING)[0] != stamps[name]]
            if changed:
                self._read_anew(changed, stamps)
            return [self._listed(name, *self._read[name][1:]) for name in names]

    def orders(self) -> dict[str, Order | None]:
        """Of all runs, which are less to look at than `runs`."""
        found: dict[str, Order | None] = {}
        for name in self._places.names():
            path = f"{self._places.runs}/{name}/studio/order.json"
            stamp = _touched(path)
            kept = self._orders.get(name)
            if kept is None or kept[0] != stamp:
                kept = self._orders[name] = (stamp, read_order(Path(path)))
            found[name] = kept[1]
        return found

    def _read_anew(self, names: Sequence[str], stamps: Mapping[str, str]) -> None:
        """From the database where it knows them as they are, else from the run directories. The disk may be full."""
        kept: dict[str, tuple[str, str]] = {}
        with suppress(WorkError), self._open() as database:
            kept = {name: (stamp, summary) for name, stamp, summary in database.execute("select * from runs")}
        new = []
        for name in names:
            stamp, summary = kept.get(name, ("", ""))
            if stamp == stamps[name]:
                found = json.loads(summary)
            else:
                found = self._summary(name)
                new.append((name, stamps[name], json.dumps(found)))
            self._read[name] = (stamps[name], read_order(self._places.ordered(name).order), found)
        if new:
            with suppress(WorkError), self._open() as database:
                database.executemany("replace into runs values (?, ?, ?)", new)

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
        """Another text whenever something that a listing shows is another."""
        folder = f"{self._places.runs}/{name}"
        paths = [f"{folder}/plan.json", f"{folder}/report.html", f"{folder}/studio/order.json"]
        with suppress(OSError), os.scandir(f"{folder}/models") as models:
            paths += sorted(model.path for model in models)
        return " ".join(map(_touched, paths))

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
        price: float | None = 0.0
        for model, _ in models:
            try:
                result = json.loads(folder.result(model).read_bytes())
                done, loss = done + 1, float(result["nats_per_token"])
                seconds += float(result.get("seconds") or 0.0)
                joules = None if joules is None or result.get("joules") is None else joules + float(result["joules"])
                price = None if price is None or result.get("price") is None else price + float(result["price"])
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
            "price": price if done else None,
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
        """The database, made where there is none or what lies there is none: it holds nothing that is not elsewhere.

        Raises:
            WorkError: it cannot be read or written.
        """
        try:
            try:
                database = self._connect()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._places.database.unlink(missing_ok=True)
                database = self._connect()
            try:
                with database:
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            if type(error) is sqlite3.DatabaseError:  # damaged within: the next who asks makes it anew
                self._places.database.unlink(missing_ok=True)
            raise WorkError(f"{self._places.database}: cannot be read or written ({error}); no run is lost") from None

    def _connect(self) -> sqlite3.Connection:
        self._places.make_home()
        database = sqlite3.connect(self._places.database, timeout=10)
        try:
            # Someone may have deleted it a moment ago.
            if database.execute("pragma user_version").fetchone() != (FORMAT,):
                database.executescript(SCHEMA)
        except BaseException:
            database.close()
            raise
        return database


def _touched(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_mtime_ns}.{status.st_size}"


def _at_work(lock: Path) -> bool:
    """Whether the process that a run's lock names is alive: a look at the lock itself could disturb who takes it."""
    try:
        pid = int(lock.read_text())
        return "isoflop" in Path(f"/proc/{pid}/cmdline").read_text()
    except (OSError, ValueError):
        return False
