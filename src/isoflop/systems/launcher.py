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
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from isoflop.errors import Interrupted, WorkError
from isoflop.outcome import LAUNCHER, OUTCOME

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
        os.environ |= {OUTCOME: str(outcome), LAUNCHER: str(os.getpid())}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=systems,
            run_id=uuid.uuid4().hex[:8],
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=RESTARTS,
            shutdown_timeout=SAVE_SECONDS,
            # This process may be stopped and go on again.
            rdzv_configs={"keep_alive_max_attempt": 1_000_000},
            logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, systems), Std.ALL)),
        )
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ended = threading.Event()
        threading.Thread(target=_end_the_rest, args=(outcome, ended), name="rest", daemon=True).start()
        stopped: int | None = None
        try:
            elastic_launch(config, entrypoint=sys.executable)("-m", "isoflop", *arguments)
        except SignalException as signalled:
            stopped = int(signalled.sigval)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            if not outcome.exists():
                raise WorkError(
                    f"system {rank} was lost {RESTARTS + 1} times, at last by {how} (memory that ran out does that); "
                    f"its messages are under {logs}; everything up to the last checkpoint is kept"
                ) from None
        finally:
            ended.set()
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ[OUTCOME], os.environ[LAUNCHER]
        if not outcome.exists():
            if stopped is not None:
                raise Interrupted(stopped, saved=False)
            return 0, ""
        said = json.loads(outcome.read_text())
        if said["code"] == 2:  # bad input leaves nothing behind
            for made in logs.glob(f"{config.run_id}_*"):
                shutil.rmtree(made, ignore_errors=True)
        return said["code"], said["line"]


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
            for child in path.read_text().split():
                if b"\0RANK=" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
                    found.append(int(child))
    return found
