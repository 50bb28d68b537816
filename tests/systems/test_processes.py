"""Cores are shared out among the systems of a machine, and the leader has all of them for what it does alone."""

import os
import subprocess

from isoflop.pipeline.systems import kept_to
from isoflop.systems.processes import is_system, share_of_cores


def test_shares_are_disjoint_and_leave_no_core_idle() -> None:
    every = os.sched_getaffinity(0)
    for count in range(1, len(every) + 1):
        shares = [share_of_cores(number, count) for number in range(count)]
        assert set().union(*shares) == every
        assert sum(map(len, shares)) == len(every)
    assert len(share_of_cores(len(every), len(every) + 1)) == 1


def test_all_cores_are_there_again_after_a_training_on_a_share_of_them() -> None:
    every = os.sched_getaffinity(0)
    share = share_of_cores(0, len(every))
    with kept_to(share):
        assert os.sched_getaffinity(0) == share
    assert os.sched_getaffinity(0) == every


def test_only_a_system_of_that_rank_is_taken_for_it() -> None:
    there = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(["cat"], env={**os.environ, "RANK": "12"}, **there) as process:  # type: ignore[call-overload]
        process.stdin.write("there\n")
        assert process.stdout.readline() == "there\n"
        assert [is_system(process.pid, rank) for rank in (12, 1, None)] == [True, False, True]
        assert not is_system(os.getpid(), 12)
    assert not is_system(process.pid, 12)
