"""Starts the systems of this machine with PyTorch's elastic launcher, and starts them again when one is lost."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from isoflop.errors import Interrupted, WorkError
from isoflop.interrupts import SIGNALS
from isoflop.outcome import LAUNCHER, OUTCOME
from isoflop.systems import loopback
from isoflop.systems.elastic import wait_for_saving
from isoflop.systems.processes import is_system
from isoflop.systems.slurm import SHUTDOWN_VARIABLE

RESTARTS = 3
# How long workers have for saving when they are told to end: a step of a large model may take many minutes. One that
# hangs is ended sooner by its neighbour, which watches until the end.
SAVE_SECONDS = 3600
# Workers still there this long after one has told how all ended are stuck, and killed.
REST_SECONDS = 60.0


def launch(arguments: Sequence[str], systems: int, logs: Path) -> tuple[int, str]:
    """Runs `isoflop ARGUMENTS` as `systems` processes: how the first of them ended.

    That is its exit code and message; (0, "") if all ended well.

    Number 0 has this terminal; what the others print lies under `logs`.

    Raises:
        Interrupted: a signal came to this process; says whether the systems have saved their last finished step.
        WorkError: they were lost again and again.
    """
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we tell what there is to tell
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        ended = threading.Event()
        threading.Thread(target=_end_the_rest, args=(outcome, ended), name="rest", daemon=True).start()
        stopped: int | None = None
        # Gloo would listen on whatever this machine's name leads to.
        variables = {OUTCOME: str(outcome), LAUNCHER: str(os.getpid()), "GLOO_SOCKET_IFNAME": "lo"}
        variables[SHUTDOWN_VARIABLE] = str(SAVE_SECONDS)
        with _Signals() as signals, _in_environment(variables):
            wait_for_saving()
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=systems,
                run_id=uuid.uuid4().hex[:8],
                rdzv_backend=loopback.BACKEND,
                local_addr=loopback.ADDRESS,
                max_restarts=RESTARTS,
                signals_to_handle="SIGHUP,SIGQUIT",  # the others are handled by _Signals
                logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, systems), Std.ALL)),
            )
            try:
                try:
                    elastic_launch(config, entrypoint=sys.executable)("-m", "isoflop", *arguments)
                finally:
                    signals.raising = False
                    ended.set()
            except SignalException as signalled:
                stopped = int(signalled.sigval)
            except ChildFailedError as failed:
                rank, failure = failed.get_first_failure()
                how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
                if not outcome.exists() and signals.first is None:
                    raise WorkError(
                        f"system {rank} was lost {RESTARTS + 1} times, at last by {how} (memory that ran out does "
                        f"that); its messages are under {logs}; everything up to the last checkpoint is kept"
                    ) from None
            except Exception:
                if signals.first is None:  # what a signal in the midst of something has broken does not matter
                    raise
            stopped = stopped or signals.first
        if not outcome.exists():
            if stopped is not None:
                raise Interrupted(stopped, saved=False)
            return 0, ""
        said = json.loads(outcome.read_text())
        if said["code"] == 2:  # bad input leaves nothing behind
            for made in logs.glob(f"{config.run_id}_*"):
                shutil.rmtree(made, ignore_errors=True)
        return said["code"], said["line"]


class _Signals:
    """Inside the block the first SIGINT or SIGTERM ends PyTorch's agent, which passes it on and waits for the systems.

    Further ones would only end that wait. PyTorch's own handler raises at each, wherever the process is.
    """

    first: int | None = None
    raising = True

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number
            if self.raising:
                raise SignalException(f"signal {number}", signal.Signals(number))


@contextlib.contextmanager
def _in_environment(variables: dict[str, str]) -> Iterator[None]:
    """Inside the block these are in the environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_the_rest(outcome: Path, ended: threading.Event) -> None:
    """A thread's life: once there is an outcome, kills the workers that do not end, as one that is stopped."""
    told: float | None = None
    while not ended.wait(0.5):
        if not outcome.exists():
            continue
        told = told or time.monotonic()
        if time.monotonic() - told >= REST_SECONDS:
            for worker in _workers():
                with contextlib.suppress(OSError):
                    os.kill(worker, signal.SIGKILL)


def _workers() -> list[int]:
    """Processes that this one started as systems."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split() if is_system(int(child))]
    return found
