"""Processes of this machine: their cores, and that none outlives whoever started it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ends this process when its `parent` ends: one that was killed must not leave it at work beside the next."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def pin(number: int, count: int) -> int:
    """Keeps this process, number `number` of `count` on the machine, to its share of the cores; how many those are.

    More processes than cores take turns on them.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = cores[number * len(cores) // count : (number + 1) * len(cores) // count] or [cores[number % len(cores)]]
    os.sched_setaffinity(0, own)
    return len(own)
