"""The queue: starts what is to be trained, in the order of priority and as far as the limits allow."""

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.errors import InputError, WorkError
from isoflop.studio.catalogue import Catalogue, Listed
from isoflop.studio.events import note_event
from isoflop.studio.jobs import Jobs
from isoflop.studio.money import quoted_price, refuse_dear
from isoflop.studio.order import Order, change_order, place_order
from isoflop.studio.places import Places
from isoflop.studio.process import look, start, stop
from isoflop.studio.quote import Quote

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """What the studio may use: runs at once, their systems together, and money in all as it was quoted."""

    at_once: int = 1
    systems: int | None = None
    price: float | None = None


class Queue:
    """One of them looks after a folder of run directories; the runs go on without it."""

    def __init__(self, places: Places, catalogue: Catalogue, limits: Limits) -> None:
        self._places, self._catalogue, self.limits = places, catalogue, limits
        self._jobs = Jobs(places, catalogue)
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._nudged = threading.Event()
        self._told: dict[str, str] = {}
        self._unheard: set[str] = set()

    def run(self) -> None:
        """A thread's life."""
        while not self._ended.is_set():
            with contextlib.suppress(WorkError, OSError):
                self.look()
            self._nudged.wait(LOOK_SECONDS)
            self._nudged.clear()

    def end(self) -> None:
        """Ends the thread, and no run."""
        self._ended.set()
        self._nudged.set()

    def nudge(self) -> None:
        """Looks at once."""
        self._nudged.set()

    def look(self) -> None:
        """Starts what may start now."""
        self._jobs.look()  # Slurm may take its time: nobody is kept waiting
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]
            runs = self._catalogue.unsettled()
            self._remind(runs)
            for run, why in self._waiting(runs):
                if not why:
                    try:
                        self._start(run)
                        self._told.pop(run.name, None)
                    except WorkError as error:  # a full disk: said on the page, and tried again
                        self._told[run.name] = str(error)

    def said(self, name: str) -> str:
        """What a cluster says of a run; empty where it has no job."""
        return self._jobs.said(name)

    def waits(self, runs: Sequence[Listed]) -> dict[str, str]:
        """In words why runs are still in the queue, or where they are at the cluster; of all runs there are."""
        found = {run.name: self._jobs.said(run.name) for run in runs}
        found |= {run.name: self._told.get(run.name) or why or "next" for run, why in self._waiting(runs)}
        return {name: why for name, why in found.items() if why}

    def _waiting(self, runs: Sequence[Listed]) -> list[tuple[Listed, str]]:
        """Those in the queue, next first, with why each has to wait; "" where it may start.

        Whoever is first and finds no room keeps those behind waiting: smaller ones would pass it for ever.
        """
        active = [run for run in runs if run.order and run.state in ("running", "stopping", "at the cluster")]
        here = sum(run.state != "at the cluster" for run in active)
        systems = sum(run.order.systems for run in active if run.order)
        queued = [(run, run.order) for run in runs if run.order and run.state == "queued"]
        found: list[tuple[Listed, str]] = []
        full = False
        for run, order in sorted(queued, key=lambda one: (-one[1].priority, one[1].ordered, one[0].name)):
            why = self._jobs.said(run.name)  # it saves, or nothing is known of it: a second one would train the same
            if not why and full:
                why = "others are first"
            elif not why and here >= self.limits.at_once:
                why, full = f"{here} of {self.limits.at_once} at work", True
            elif not why and self.limits.systems is not None and systems + order.systems > self.limits.systems:
                why, full = f"{systems} of {self.limits.systems} systems taken", True
            elif not why:
                here, systems = here + 1, systems + order.systems
            found.append((run, why))
        return found

    def place(self, quote: Quote, owner: str, most_price: float | None = None) -> Order:
        """Puts a quoted family into the queue.

        Raises:
            InputError: limits forbid it, or `place_order` does.
        """
        systems = self.limits.systems
        if systems is not None and quote.family.systems > systems:
            raise InputError(f"systems = {quote.family.systems}: this studio has {systems}; ask for fewer")
        with self._lock:
            runs = self._catalogue.runs()
            refuse_dear(self._places, quote.price, runs, self.limits.price, "this studio")
            refuse_dear(self._places, quote.price, _of(owner, runs), most_price, owner)
            order = place_order(self._places, quote, owner)
        self.nudge()
        return order

    def pause(self, name: str) -> None:
        """Saves, ends, and stays out of the queue."""
        self._want(name, "pause")

    def cancel(self, name: str) -> None:
        """As `pause`; said to be for good. What was trained is kept."""
        self._want(name, "cancel")

    def resume(self, name: str, most_price: float | None = None) -> None:
        """Back into the queue: it goes on from its last checkpoint.

        Raises:
            InputError: it was cancelled, and what its money would be went to others since.
        """
        with self._lock:
            ordered, run = self._places.ordered(name), self._catalogue.run(name)
            if run is not None and run.state == "cancelled":
                price = quoted_price(run)
                others = [one for one in self._catalogue.runs() if one.name != name]
                refuse_dear(self._places, price, others, self.limits.price, "this studio")
                refuse_dear(self._places, price, _of(run.owner, others), most_price, run.owner)
            change_order(ordered, wanted="train")
            note_event(ordered, "told", "put back into the queue")
            if not look(ordered.process).alive:
                ordered.process.unlink(missing_ok=True)
        self.nudge()

    def change(self, name: str, *, systems: int | None = None, priority: int | None = None) -> None:
        """Other systems, for which a run at work stops at a checkpoint and goes on; or another place in the queue."""
        if systems is not None and self.limits.systems is not None and systems > self.limits.systems:
            raise InputError(f"systems = {systems}: this studio has {self.limits.systems}; ask for fewer")
        said = {key: value for key, value in (("systems", systems), ("priority", priority)) if value is not None}
        with self._lock:
            ordered, run = self._places.ordered(name), self._catalogue.run(name)
            if run is None or run.order is None or systems is None or systems == run.order.systems:
                change_order(ordered, **said)
            else:
                self._jobs.check(run, systems)
                at_the_cluster = run.state == "at the cluster"
                if at_the_cluster:
                    self._jobs.cancel(run)
                change_order(ordered, **said)
                note_event(ordered, "told", f"to go on with {systems} systems")
                if not stop(ordered.process) and look(ordered.process).alive:
                    self._unheard.add(name)
                if at_the_cluster:
                    ordered.process.unlink(missing_ok=True)
        self.nudge()

    def share(self, name: str, shared: bool) -> None:
        """Whether others see it."""
        with self._lock:
            change_order(self._places.ordered(name), shared=shared)

    def _want(self, name: str, wanted: str) -> None:
        with self._lock:
            ordered, run = self._places.ordered(name), self._catalogue.run(name)
            if run is not None and run.state == "at the cluster":
                self._jobs.cancel(run)
            change_order(ordered, wanted=wanted)
            stopped = stop(ordered.process)
            note_event(ordered, "told", f"to {wanted}{': it saves and ends' if stopped else ''}")
        self.nudge()

    def _remind(self, runs: Sequence[Listed]) -> None:
        """Whoever was told to stop while it was too young to be known by its number is told again."""
        for run in runs:
            if run.state == "stopping" or run.name in self._unheard:
                told = stop(self._places.ordered(run.name).process)
                if told or not run.process.alive:
                    self._unheard.discard(run.name)

    def _start(self, run: Listed) -> None:
        assert run.order is not None
        command = "train" if run.order.cluster and run.done < run.models else "run"
        ordered = self._places.ordered(run.name)
        again = ordered.log.exists()
        options = ["--runs", str(self._places.runs), "--systems", str(run.order.systems)]
        options += ["--execution", run.order.execution]
        child = start(ordered, [command, str(ordered.family_file), *options])
        self._children.append(child)
        systems = f"{run.order.systems} system{'s' * (run.order.systems > 1)}"
        note_event(ordered, "start", f"{'goes on' if again else 'started'} with {systems}, {run.order.execution}")


def _of(owner: str, runs: Sequence[Listed]) -> list[Listed]:
    return [run for run in runs if run.owner == owner]
