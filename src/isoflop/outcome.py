"""How a worker tells the launcher that started it what no restart would mend; and that it does not outlive it."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import time
from pathlib import Path

# The file for it, and the launcher's process, in the environment of its workers.
OUTCOME, LAUNCHER = "ISOFLOP_OUTCOME", "ISOFLOP_LAUNCHER"
# For how long one that has lost another waits for that other's word.
PATIENCE_SECONDS = 5.0

_PR_SET_PDEATHSIG = 1


def ended_already() -> bool:
    """Whether this is a worker and one of them has told how it ended: then there is nothing to do. Also binds the
    worker to its launcher's life.
    """
    if OUTCOME not in os.environ:
        return False
    die_with(int(os.environ[LAUNCHER]))
    return Path(os.environ[OUTCOME]).exists()


def tell_launcher(code: int, line: str, lost: bool) -> int | None:
    """Tells the launcher how this worker ended, and what exit code it is to see; None if there is no launcher.

    The first one's word counts, and exit code 0 says that there is nothing to try again.

    One that has lost another knows no more than that: it tells nothing, and is started again if the other did not.
    """
    if OUTCOME not in os.environ:
        return None
    outcome = Path(os.environ[OUTCOME])
    if lost:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not outcome.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return 0 if outcome.exists() else code
    part = outcome.with_name(f"{socket.gethostname()}-{os.getpid()}.part")
    part.write_text(json.dumps({"code": code, "line": line}))
    with contextlib.suppress(FileExistsError):
        os.link(part, outcome)
    return 0


def die_with(parent: int) -> None:
    """Ends this process when its `parent` ends: one that was killed must not leave it at work beside the next."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
