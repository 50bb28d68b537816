"""SIGINT and SIGTERM: at once where work is atomic, at the next safe point where there is state to save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from isoflop.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How often one that came in the midst of an import is tried again.
AGAIN_SECONDS = 0.05


class Pending:
    """What has arrived while signals are deferred."""

    signal_number: int | None = None


def install() -> None:
    """From now on SIGINT and SIGTERM raise `Interrupted` in the main thread, though not within an import."""
    for number in SIGNALS:
        signal.signal(number, _raise)


@contextmanager
def deferred() -> Iterator[Pending]:
    """Inside the block a signal is only noted in the yielded `Pending`; whoever runs the block looks there.

    A signal that nobody looked at raises `Interrupted` when the block ends.
    """
    pending = Pending()

    def note(number: int, frame: FrameType | None) -> None:
        pending.signal_number = pending.signal_number or number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pending.signal_number is not None:
        raise Interrupted(pending.signal_number)


@contextmanager
def held_back() -> Iterator[None]:
    """Inside the block signals wait, and in processes that start there until these let them come: an interpreter would
    tell pages of one that comes while it still imports.
    """
    from multiprocessing import resource_tracker

    # It starts with the first process, and lets signals come when it has.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise(number: int, frame: FrameType | None) -> None:
    if _within_an_import(frame):
        # NumPy and PyTorch swallow what is raised while they are imported, or stay behind half imported. Sent again, so
        # that whoever handles signals by then has it.
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        return
    # A second signal while the first is being handled would only hurry nothing.
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


def _within_an_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
