"""Run by test_faults.py: trains, kills itself at a system call chosen by number, goes on, and says what it ended with.

Arguments: data, folder, seed, how many runs to kill. Each run is a fork of this process, which itself computes nothing.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isoflop.model import weights_sha256
from tests.streaming.runs import DISK, RESIDENT, losses, run

CALLS = ("pwritev", "fsync", "replace", "unlink", "link", "ftruncate")


def forked(work: Callable[[], None]) -> int:
    """The status of a fork that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def count_calls(at: int | None, told: Path) -> None:
    """From now on every call is counted; number `at` is done by half if it writes, and ends the process."""
    counter = iter(range(10**9))

    def counted(name: str, call: Any) -> Any:
        def one(*arguments: Any, **named: Any) -> Any:
            number = next(counter)
            if number == at:
                if name == "pwritev":
                    (content,) = arguments[1]
                    call(arguments[0], [content[: len(content) // 8192 * 4096]], arguments[2])
                told.write_text(f"{name} {arguments[:1]}")
                os.kill(os.getpid(), signal.SIGKILL)
            if at is None:
                told.write_text(str(number))
            return call(*arguments, **named)

        return one

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))


def main(data: Path, folder: Path, seed: int, runs: int) -> None:
    told = folder / "told"

    def whole() -> None:
        count_calls(None, told)
        run(data, folder / "whole", DISK)

    assert forked(whole) == 0
    total = int(told.read_text())
    chosen = random.Random(seed).sample(range(total), runs)
    found = []
    for i, at in enumerate(chosen):
        place, plan = folder / str(i), (DISK, RESIDENT)[i % 2]

        def killed(place: Path = place, at: int = at) -> None:
            count_calls(at, told)
            run(data, place, DISK)

        def resumed(place: Path = place, plan: Any = plan) -> None:
            told.write_text(weights_sha256(run(data, place, plan).weights))

        assert os.WTERMSIG(forked(killed)) == signal.SIGKILL
        at_call = told.read_text()
        assert forked(resumed) == 0, at_call
        found.append({"at": at_call, "weights": told.read_text(), "losses": losses(place)})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
