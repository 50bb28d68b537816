"""Peak memory of training the shapes of training.py, beside what `isoflop plan` foretells.

    uv run python benchmarks/memory.py [--shapes ...] [--steps 3]

Each shape has a process of its own, with the steps of training.py. On a processor it is anonymous memory (RssAnon, read
every 5 ms), on a GPU what was allocated on it at once, with the context as the plan counts it. It does not depend on
what else the machine does. Writes benchmarks/results/memory.json.
"""

import argparse
import threading
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peers import Work, isoflop, samples_of
from training import SHAPES

from isoflop.durable import write_json
from isoflop.recipe.footprint import CONTEXT_BYTES, resident_footprint
from isoflop.systems.device import training_device
from isoflop.systems.machine import available_cores, processor_name

RESULTS = Path(__file__).parent / "results" / "memory.json"
SECONDS_BETWEEN_LOOKS = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    lanes, device = (1, "cuda") if on_gpu else (available_cores(), "cpu")
    rows: list[dict[str, Any]] = []
    for name in given.shapes:
        shape, microbatch, sequences = SHAPES[name]
        at_once = min(lanes, sequences // microbatch)
        foretold = resident_footprint(shape, "bf16", microbatch, at_once, device).device_bytes
        measured = _measured(name, given.steps)
        rows.append({"shape": name, "measured_bytes": measured, "foretold_bytes": foretold})
        share = measured / foretold
        print(f"{name:8}{measured / 1e9:7.2f} GB, foretold {foretold / 1e9:.2f} GB ({share:.2f})", flush=True)
    about = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
        "cores": available_cores(),
        "torch": version("torch"),
    }
    write_json(RESULTS, {**about, "rows": rows})


def _measured(name: str, steps: int) -> int:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_work, args=(theirs, name, steps), daemon=True)
    process.start()
    theirs.close()
    try:
        found: int = ours.recv()
    except EOFError:
        raise SystemExit(f"{name}: its process died: too little memory?") from None
    process.join()
    return found


def _work(connection: Connection, name: str, steps: int) -> None:
    shape, microbatch, sequences = SHAPES[name]
    device = training_device()
    peak = _Peak()
    step = isoflop(Work(shape, microbatch, sequences, available_cores(), device, None))
    for number in range(steps):
        step(samples_of(shape, sequences, number))
    on_gpu = device.type == "cuda"
    connection.send(torch.cuda.max_memory_allocated(device) + CONTEXT_BYTES if on_gpu else peak.read())


class _Peak:
    """The most anonymous memory of this process since this was made."""

    def __init__(self) -> None:
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def read(self) -> int:
        """Bytes."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(line for line in lines if line.startswith("RssAnon"))
            self._most = max(self._most, int(anonymous.split()[1]) * 1024)
            if self._ended.wait(SECONDS_BETWEEN_LOOKS):
                return


if __name__ == "__main__":
    main()
