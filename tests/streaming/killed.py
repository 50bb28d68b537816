"""Run by test_faults.py: trains, kills itself at a system call, goes on, and says what it ended with.

    python -m tests.streaming.killed DATA FOLDER SEED KINDS [stays]

With `stays` the embeddings stay in memory.

The first that it tells of is what an undisturbed run ends with. Calls are of one kind if they do the same to files of
one name but for layer and step; of that many kinds one call each is the last of a run. Each run is a fork of this
process, which itself computes nothing.
"""

import json
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoflop.model import weights_sha256
from isoflop.recipe import BatchStage
from tests.streaming.runs import DISK, RESIDENT, losses, run

CALLS = ("pwritev", "fsync", "replace", "unlink", "link", "ftruncate")
# Every kind of call comes in every step, or at the beginning or the end.
STEPS = 6
SHORT = {"tokens": STEPS * 4 * 32, "steps": STEPS, "batch_schedule": (BatchStage(0, 4),)}
PLANS = (replace(DISK, **SHORT), replace(RESIDENT, **SHORT))


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


def kind_of(name: str, arguments: tuple[Any, ...]) -> str:
    """Which call it is, of which file."""
    place = arguments[1] if name in ("replace", "link") else arguments[0]
    path = Path(os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else place)
    shard = re.sub(r"embedding|layer-\d+|final", "shard", re.sub(r"mapped-\w+", "mapped", path.name))
    return f"{name} {'checkpoint ' * ('gen-' in str(path))}{re.sub(r'[0-9]+', '#', shard)}"


def count_calls(last: tuple[str, int] | None) -> Counter[str]:
    """From now on calls are counted by their kinds; the `last`, a kind's number n, is done by half if it writes, and
    ends the process.
    """
    counts: Counter[str] = Counter()

    def counted(name: str, call: Any, arguments: tuple[Any, ...]) -> None:
        kind = kind_of(name, arguments)
        number = counts[kind]
        counts[kind] += 1
        if (kind, number) == last:
            if name == "pwritev":
                (content,) = arguments[1]
                call(arguments[0], [content[: len(content) // 8192 * 4096]], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)

    before_calls(CALLS, counted)
    return counts


def before_calls(names: Sequence[str], do: Callable[[str, Any, tuple[Any, ...]], None]) -> None:
    """From now on `do(name, call, arguments)` comes before every call of these of os."""

    def wrapped(name: str, call: Any) -> Any:
        def one(*arguments: Any, **named: Any) -> Any:
            do(name, call, arguments)
            return call(*arguments, **named)

        return one

    for name in names:
        setattr(os, name, wrapped(name, getattr(os, name)))


def main(data: Path, folder: Path, seed: int, kinds: int, stays: bool) -> None:
    streamed = replace(PLANS[0], embeddings_stay=stays)
    told, dice = folder / "told", random.Random(seed)

    def whole() -> None:
        counts = count_calls(None)
        told.write_text(json.dumps([weights_sha256(run(data, folder / "whole", streamed).weights), counts]))

    assert forked(whole) == 0
    wanted, counts = json.loads(told.read_text())
    found = [{"at": "never", "weights": wanted, "losses": losses(folder / "whole", STEPS)}]
    for i, kind in enumerate(dice.sample(sorted(counts), min(kinds, len(counts)))):
        place, plan, last = folder / str(i), PLANS[i % 2], (kind, dice.randrange(counts[kind]))

        def killed(place: Path = place, last: tuple[str, int] = last) -> None:
            count_calls(last)
            run(data, place, streamed)

        def resumed(place: Path = place, plan: Any = plan) -> None:
            told.write_text(weights_sha256(run(data, place, plan).weights))

        assert os.WTERMSIG(forked(killed)) == signal.SIGKILL, last
        assert forked(resumed) == 0, last
        found.append({"at": last, "weights": told.read_text(), "losses": losses(place, STEPS)})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:] == ["stays"])
