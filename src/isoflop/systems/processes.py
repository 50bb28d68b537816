"""Processes of this machine and their cores."""

import os


def pin(number: int, count: int) -> int:
    """Keeps this process, number `number` of `count` on the machine, to its share of the cores; how many those are.

    More processes than cores take turns on them.
    """
    cores = sorted(os.sched_getaffinity(0))
    own = cores[number * len(cores) // count : (number + 1) * len(cores) // count] or [cores[number % len(cores)]]
    os.sched_setaffinity(0, own)
    return len(own)
