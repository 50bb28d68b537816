"""Small members of a family side by side: a process for each core, each training one model after the other."""

import os
import signal
import traceback
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import TYPE_CHECKING

from isoflop import interrupts
from isoflop.config import Family
from isoflop.errors import Interrupted, WorkError
from isoflop.outcome import die_with
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener, TrainingListener
from isoflop.pipeline.member import train_member
from isoflop.pipeline.result import Result

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.train import Step

# What a worker says: the name of a listener's method with its arguments, or one of these.
_IDLE, _FAILED = "idle", "failed"
# How often a signal is looked for while all workers are busy.
_PATIENCE_SECONDS = 0.2
_SECONDS_BETWEEN_STEPS = 0.2


def train_side_by_side(
    family: Family,
    plan: "Plan",
    models: Sequence["ModelPlan"],
    data: "Manifest",
    folder: RunFolder,
    listener: Listener,
) -> list[Result]:
    """The results of `models`, each trained on one lane, as many at once as the machine has cores.

    Raises:
        Interrupted: a signal came; every model has saved its last finished step.
        InputError, WorkError, OSError: a model could not be trained; the others have saved theirs.
    """
    waiting = list(models)
    context = get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    results: list[Result] = []
    stop: BaseException | None = None
    with interrupts.deferred() as pending:
        for _ in range(min(len(waiting), plan.machine.lanes)):
            ours, theirs = context.Pipe()
            arguments = (theirs, os.getpid(), family, plan, data, folder)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            with interrupts.held_back():
                worker.start()
            theirs.close()
            workers[ours] = worker
        while workers:
            if stop is None and pending.signal_number is not None:
                stop = Interrupted(pending.signal_number)
                _stop(workers.values(), pending.signal_number)
            for connection in wait(list(workers), _PATIENCE_SECONDS):
                assert isinstance(connection, Connection)
                try:
                    said, arguments = connection.recv()
                except EOFError:
                    fault = _ended(workers.pop(connection), folder)
                    if fault is not None and stop is None:
                        stop = fault
                        _stop(workers.values(), signal.SIGTERM)
                    continue
                if said == _IDLE:
                    connection.send(waiting.pop(0) if waiting and stop is None else None)
                elif said == _FAILED:
                    if stop is None:
                        (stop,) = arguments
                        _stop(workers.values(), signal.SIGTERM)
                else:
                    if said == "done":
                        results.append(arguments[0])
                    getattr(listener, said)(*arguments)
        if stop is not None:
            pending.signal_number = None
    if stop is not None:
        raise stop
    return results


def _stop(workers: Iterable[BaseProcess], number: int) -> None:
    for worker in workers:
        if worker.is_alive() and worker.pid is not None:
            os.kill(worker.pid, number)


def _ended(worker: BaseProcess, folder: RunFolder) -> WorkError | None:
    """What to say of a worker that has hung up; nothing if it ended as it should."""
    worker.join()
    code = worker.exitcode or 0
    if code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        return None
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return WorkError(
        f"{folder.path}: a training process {how} (memory that ran out does that); everything up to its last "
        "checkpoint is kept: run the same command to go on"
    )


def _work(
    connection: Connection, parent: int, family: Family, plan: "Plan", data: "Manifest", folder: RunFolder
) -> None:
    """A worker's life: asks for a model, trains it, until there is none or something went wrong."""
    die_with(parent)
    code = 0
    try:
        # Nothing is raised out of the blue: training stops at its next step, the rest of the work is short.
        with interrupts.deferred() as pending:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.SIGNALS)
            from isoflop.model import Lanes

            listener = _Relay(connection)
            with Lanes(1) as lanes:
                while pending.signal_number is None:
                    connection.send((_IDLE, ()))
                    model = connection.recv()
                    if model is None:
                        break
                    train_member(family, plan, model, data, folder, listener, lanes)
    except Interrupted as interrupted:
        code = 128 + interrupted.signal_number
    except (BrokenPipeError, EOFError):
        code = 1  # whoever asked for the models is gone
    except Exception as fault:
        fault.add_note(f"in a training process:\n{traceback.format_exc()}")
        connection.send((_FAILED, (fault,)))
    connection.close()
    os._exit(code)


class _Relay(TrainingListener):
    """Sends what it hears to the process that shows it, of the steps as many as an eye can follow."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = 0.0

    def note(self, line: str) -> None:
        self._connection.send(("note", (line,)))

    def starts(self, model: "ModelPlan") -> None:
        self._connection.send(("starts", (model,)))
        self._sent = 0.0

    def step(self, model: "ModelPlan", step: "Step") -> None:
        now = monotonic()
        if now - self._sent >= _SECONDS_BETWEEN_STEPS or step.step == step.steps:
            self._connection.send(("step", (model, step)))
            self._sent = now

    def done(self, result: Result, fresh: bool) -> None:
        self._connection.send(("done", (result, fresh)))
