"""The queue: starts what is to be trained, in the order of priority and as far as the limits allow."""

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.errors import InputError, WorkError
from isoflop.studio.catalogue import Catalogue, Listed
from isoflop.studio.jobs import Jobs
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
            runs = self._catalogue.runs()
            self._remind(runs)
            for run in self.waiting(runs):
                if self.why_not(run, runs) is None:
                    try:
                        self._start(run)
                        self._told.pop(run.name, None)
                    except WorkError as error:  # a full disk: said on the page, and tried again
                        self._told[run.name] = str(error)
                    runs = self._catalogue.runs()

    def waiting(self, runs: Sequence[Listed]) -> list[Listed]:
        """Those in the queue, next first."""
        queued = [run for run in runs if run.order and run.state == "queued"]
        return sorted(queued, key=lambda run: (-run.order.priority, run.order.ordered) if run.order else (0, ""))

    def waits(self, run: Listed, runs: Sequence[Listed]) -> str:
        """In words why a run is still in the queue, or where it is at the cluster; else empty."""
        if run.state != "queued" or run.order is None:
            return self._jobs.said(run.name)
        return self._told.get(run.name) or self.why_not(run, runs) or "next"

    def why_not(self, run: Listed, runs: Sequence[Listed]) -> str | None:
        """Why a run has to wait; None where it may start."""
        assert run.order is not None
        if self._jobs.said(run.name):
            return self._jobs.said(run.name)  # it saves, or nothing is known of it: a second one would train the same
        here = sum(one.state in ("running", "stopping") and one.order is not None for one in runs)
        if here >= self.limits.at_once:
            return f"{here} of {self.limits.at_once} at work"
        active = [one.order for one in runs if one.state in ("running", "stopping", "at the cluster")]
        used = sum(order.systems for order in active if order)
        if self.limits.systems is not None and used + run.order.systems > self.limits.systems:
            return f"{used} of {self.limits.systems} systems taken"
        return None

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
            self._refuse_dear(quote.price, runs, self.limits.price, "this studio")
            self._refuse_dear(quote.price, _of(owner, runs), most_price, owner)
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
                others = [one for one in self._catalogue.runs() if one.name != name]
                self._refuse_dear(_price(run), others, self.limits.price, "this studio")
                self._refuse_dear(_price(run), _of(run.owner, others), most_price, run.owner)
            change_order(ordered, wanted="train")
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
                stop(ordered.process)
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
            stop(ordered.process)
        self.nudge()

    def _remind(self, runs: Sequence[Listed]) -> None:
        """Whoever was told to stop while it was too young to hear is told again."""
        for run in runs:
            if run.state == "stopping":
                stop(self._places.ordered(run.name).process)

    def _start(self, run: Listed) -> None:
        assert run.order is not None
        command = "train" if run.order.cluster and run.done < run.models else "run"
        ordered = self._places.ordered(run.name)
        options = ["--runs", str(self._places.runs), "--systems", str(run.order.systems)]
        options += ["--execution", run.order.execution]
        child = start(ordered, [command, str(ordered.family_file), *options])
        self._children.append(child)

    @staticmethod
    def _refuse_dear(price: float | None, runs: Sequence[Listed], most: float | None, whose: str) -> None:
        if most is None:
            return
        if price is None:
            raise InputError(
                f"price: {whose} may spend {most:g}, and this quote has no price; give one a system and hour"
            )
        spent = sum(map(_spent, runs))
        if spent + price > most:
            raise InputError(f"price: {whose} may spend {most:g}, {spent:.2f} are taken and this is {price:.2f}")


def _of(owner: str, runs: Sequence[Listed]) -> list[Listed]:
    return [run for run in runs if run.owner == owner]


def _price(run: Listed) -> float:
    price = run.order.quote.get("totals", {}).get("price") if run.order else None
    return float(price) if isinstance(price, int | float) else 0.0


def _spent(run: Listed) -> float:
    """The price as quoted; of a cancelled run, the share that its finished models have of its time."""
    if run.state != "cancelled" or run.order is None:
        return _price(run)
    seconds = float(run.order.quote.get("totals", {}).get("seconds") or 0.0)
    return _price(run) * min(1.0, run.seconds / seconds) if seconds else 0.0
