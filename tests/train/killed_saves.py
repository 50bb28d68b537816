"""Run by test_checkpoint.py: saves, killed at each system call of the save in turn; says what is then found.

Argument: a folder. A line for each call: where it was killed, the steps of the generation that is loaded, what was
told, and what lies in the folder after the next save.
"""

import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from tests.streaming import killed
from tests.train.test_checkpoint import load, save


def kill_at(at: int, told: Path) -> None:
    """From now on every call is counted; number `at` tells its name and ends the process instead."""
    numbers = count()

    def counted(name: str, call: Any, arguments: tuple[Any, ...]) -> None:
        if next(numbers) == at:
            told.write_text(f"{name} {arguments[:1]}")
            os.kill(os.getpid(), signal.SIGKILL)

    # Of a removed folder every file counts.
    killed.before_calls((*killed.CALLS, "rmdir"), counted)


def main(place: Path) -> None:
    told, before = place / "told", place / "before"
    for steps in (1, 2):
        save(before, steps)
    for at in count():
        folder = place / str(at)
        shutil.copytree(before, folder)

        def third(at: int = at, folder: Path = folder) -> None:
            kill_at(at, told)
            save(folder, 3)

        status = killed.forked(third)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        events: list[str] = []
        generation = load(folder, events)
        save(folder, 4)
        left = sorted(path.name for path in folder.iterdir())
        steps = 0 if generation is None else generation.steps
        print(json.dumps({"call": told.read_text(), "steps": steps, "events": events, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
