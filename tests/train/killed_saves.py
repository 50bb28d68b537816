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

from tests.streaming import killed
from tests.train.test_checkpoint import load, save


def main(place: Path) -> None:
    told, before = place / "told", place / "before"
    for steps in (1, 2):
        save(before, steps)
    # Of a removed folder every file counts.
    killed.CALLS = (*killed.CALLS, "rmdir")
    for at in count():
        folder = place / str(at)
        shutil.copytree(before, folder)

        def third(at: int = at, folder: Path = folder) -> None:
            killed.count_calls(at, told)
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
