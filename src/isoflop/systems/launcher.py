"""Starts the systems of this machine with PyTorch's elastic launcher, and starts them again when one is lost."""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
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


def launch(arguments: Sequence[str], systems: int, logs: Path) -> tuple[int, str]:
    """Runs `isoflop ARGUMENTS` as `systems` processes: how the first of them ended.

    That is its exit code and message; (0, "") if all ended well.

    Number 0 has this terminal; what the others print lies under `logs`.

    Raises:
        Interrupted: a signal came to this process; the systems have saved their last finished step.
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
            logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, systems), Std.ALL)),
        )
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            elastic_launch(config, entrypoint=sys.executable)("-m", "isoflop", *arguments)
        except SignalException as stopped:
            raise Interrupted(int(stopped.sigval)) from None
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            raise WorkError(
                f"system {rank} was lost {RESTARTS + 1} times, at last by {how} (memory that ran out does that); "
                f"its messages are under {logs}; everything up to the last checkpoint is kept"
            ) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ[OUTCOME], os.environ[LAUNCHER]
        if not outcome.exists():
            return 0, ""
        said = json.loads(outcome.read_text())
        if said["code"] == 2:  # bad input leaves nothing behind
            for made in logs.glob(f"{config.run_id}_*"):
                shutil.rmtree(made, ignore_errors=True)
        return said["code"], said["line"]
