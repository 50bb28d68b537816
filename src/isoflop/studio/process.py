"""Processes that the web server starts and that are none of its children: they outlive it, and it finds them again.

Each holds the kernel's lock on a file in its run directory, inherited before it begins. Whether one is alive is
therefore known for certain, whatever was killed and whatever process numbers were given out again; and no second one
starts beside it.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isoflop.durable import cannot_write
from isoflop.errors import WorkError
from isoflop.studio.detached import WORDS_BYTES, words
from isoflop.studio.places import Ordered

MODULE = "isoflop.studio.detached"


@dataclass(frozen=True)
class Process:
    """What is known of a run's process. `code` is how it ended: None while it lives, and where it left no word."""

    pid: int | None
    alive: bool
    code: int | None


NONE = Process(None, False, None)


def start(ordered: Ordered, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Starts `isoflop ARGUMENTS` in a session of its own; what it prints goes to the run's log.

    Raises:
        WorkError: a process is at work there already, or the folder cannot be written.
    """
    try:
        descriptor = os.open(ordered.process, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(ordered.process, error) from None
    try:
        if not _locked(descriptor):
            raise WorkError(f"{ordered.path.parent.name}: a process is at work there already")
        # Room for all that it will ever say: on a full disk nothing starts, and how it ended is always told.
        os.pwrite(descriptor, words(None, None), 0)
        os.ftruncate(descriptor, WORDS_BYTES)
        with open(ordered.log, "ab") as log, _held_back(signal.SIGTERM):
            child = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(descriptor), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[descriptor],
            )
        os.pwrite(descriptor, words(child.pid, None), 0)
        return child
    except OSError as error:
        raise cannot_write(ordered.log, error) from None
    finally:
        os.close(descriptor)  # the child's copy keeps the lock


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """What is begun within gets the signal only when it can hear it: else it would end without a word."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _locked(descriptor: int) -> bool:
    # Whoever looks holds the lock for a moment: that is no process at work.
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.005)
    return False


def look(path: Path) -> Process:
    """The process that holds the file at `path`, or held it last."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return NONE
    try:
        said = os.pread(descriptor, WORDS_BYTES, 0).decode(errors="replace").split()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
    finally:
        os.close(descriptor)
    numbers = [int(word) if word.lstrip("-").isdigit() else None for word in said[:2]]
    pid, code = (*numbers, None, None)[:2]
    return Process(pid, alive, None if alive else code)


def leave_word(ordered: Ordered, code: int, told: str) -> None:
    """Sets how a run's process ended, where what it began elsewhere has ended otherwise; a living one is left alone.

    Raises:
        WorkError: the folder cannot be written.
    """
    pid = look(ordered.process).pid or 0
    try:
        # Held meanwhile, so that none begins in between and loses its number.
        with open(ordered.process, "r+") as file:
            if not _locked(file.fileno()):
                return
            with open(ordered.log, "a") as log:
                log.write(f"isoflop: {told}\n")
            os.pwrite(file.fileno(), words(pid, code), 0)
            file.truncate(WORDS_BYTES)
    except FileNotFoundError:
        return  # it was put back into the queue
    except OSError as error:
        raise cannot_write(ordered.log, error) from None


def stop(path: Path) -> bool:
    """Asks the process to save and end; whether there was one."""
    found = look(path)
    if not found.alive or found.pid is None or not _is_ours(found.pid):
        return False
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _is_ours(pid: int) -> bool:
    # Its children may hold the lock for a moment longer than it lives: its number could be another's then.
    try:
        return MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
