"""Processes of this machine and their cores."""

import os


def share_of_cores(number: int, count: int) -> set[int]:
    """The cores of process number `number` of `count` on the machine, out of those that this one may use.

    More processes than cores take turns on them.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
    return set(own or [cores[number % len(cores)]])
