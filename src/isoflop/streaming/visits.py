"""A pass of a group of microbatches through the pieces, as visits of pieces and tasks of lanes."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Microbatch:
    """One microbatch of a group: B sequences of T tokens, n = B T."""

    number: int
    ids: Tensor  # (B, T)
    targets: Tensor  # (n)
    x: Tensor  # (n, d): the residual stream where it has got to, then the gradient by it
    nats: Tensor | None = None


@dataclass(eq=False)
class Visit:
    """A piece is on the device, and all microbatches of the group do the same `work` with it.

    `prepare` brings there what the work needs, and its answer is handed to `work` with each microbatch; `leave` takes
    away what the work has left. `uses` names the memory that it all takes, as ranges [start : stop] of buffers: two
    visits that use the same are never present together.
    """

    prepare: Callable[[], Any]
    work: Callable[[Any, Microbatch], None]
    leave: Callable[[], None] = lambda: None
    uses: Sequence[tuple[str, int, int]] = ()
    prepared: "Future[Any]" = field(default_factory=Future)
    tasks: "list[Task]" = field(default_factory=list)

    def collides(self, other: "Visit") -> bool:
        """Whether the two use the same memory."""
        return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in self.uses for b in other.uses)


@dataclass(eq=False)
class Task:
    """A microbatch's turn at a visit, after its turn at the visit before."""

    visit: Visit
    microbatch: Microbatch
    after: "Task | None"
    done: threading.Event = field(default_factory=threading.Event)


class Pass:
    """Runs visits in order: lanes `run` the `tasks`, a conductor prepares the next visit while one is at work.

    The conductor keeps one order whatever the threads do, so that systems which talk to each other in `prepare` and
    `leave` do so alike.
    """

    def __init__(self, visits: Sequence[Visit], batch: Sequence[Microbatch]) -> None:
        self._visits = visits
        self._fault: BaseException | None = None
        before: list[Task | None] = [None] * len(batch)
        for visit in visits:
            visit.tasks = [Task(visit, microbatch, after) for microbatch, after in zip(batch, before, strict=True)]
            before = list(visit.tasks)
        self.tasks = [task for visit in visits for task in visit.tasks]

    def conduct(self) -> None:
        """Prepares every visit as soon as what it needs is free, and sees each off."""
        present: deque[Visit] = deque()
        try:
            for visit in self._visits:
                # One may still be at work while the next is prepared, unless they need the same memory.
                while len(present) > 1 or (present and present[0].collides(visit)):
                    self._see_off(present.popleft())
                visit.prepared.set_result(visit.prepare())
                present.append(visit)
            while present:
                self._see_off(present.popleft())
        except BaseException as fault:
            self._fault = self._fault or fault
            for visit in self._visits:
                if not visit.prepared.done():
                    visit.prepared.set_exception(fault)

    def run(self, task: Task) -> None:
        """A lane's part. A fault is kept for `check`: every task comes to be done, so that nobody waits for ever."""
        try:
            if task.after is not None:
                task.after.done.wait()
            if self._fault is None:
                task.visit.work(task.visit.prepared.result(), task.microbatch)
        except BaseException as fault:
            self._fault = self._fault or fault
        finally:
            task.done.set()

    def check(self) -> None:
        """Raises what went wrong."""
        if self._fault is not None:
            raise self._fault

    def _see_off(self, visit: Visit) -> None:
        for task in visit.tasks:
            task.done.wait()
        self.check()
        visit.leave()
