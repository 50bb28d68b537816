"""Processes of this machine and their cores."""

import os
from pathlib import Path


def is_system(process: int, rank: int | None = None) -> bool:
    """Whether that process of this machine was started as a system, of that `rank` if one is asked for.

    A number that comes from elsewhere may be any process here: another container may have the same host name.
    """
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(one.startswith(b"RANK=") if rank is None else one == b"RANK=%d" % rank for one in variables)


def share_of_cores(number: int, count: int) -> set[int]:
    """The cores of process number `number` of `count` on the machine, out of those that this one may use.

    More processes than cores take turns on them.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
    return set(own or [cores[number % len(cores)]])
