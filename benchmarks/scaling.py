"""What a second system brings, what the systems' exchange costs, and what equal bits cost.

uv run python benchmarks/scaling.py

Workers of one core each. In every round each of four kinds makes one step by turns: one system alone; two systems on
twice the tokens; both again with plain fp32 sums (`reproducible = false`). Medians over the rounds of one process tree;
ratios are medians of ratios within a round. Rows of other shapes stay. Writes benchmarks/results/scaling.json.
"""

import argparse
import json
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.durable import write_json
from isoflop.model import Lanes, load_kernels
from isoflop.recipe import Shape
from isoflop.systems.distributed import Group
from isoflop.systems.group import ALONE, Systems
from isoflop.systems.machine import measure_machine
from isoflop.systems.processes import share_of_cores
from isoflop.train.learner import Learner

RESULTS = Path(__file__).parent / "results" / "scaling.json"
# name: shape, sequences of a microbatch, microbatches a system and step
SHAPES = {
    "pocket w80": (Shape(3, 80, 2, 1024, 256), 8, 2),
    "small": (Shape(6, 384, 6, 8192, 512), 4, 4),
    "111M": (Shape(10, 768, 12, 50257, 2048), 1, 2),
}
KINDS = {
    "one": (False, True),
    "two": (True, True),
    "one, fp32 sums": (False, False),
    "two, fp32 sums": (True, False),
}  # (with the group, reproducible)


class Timed(Systems):
    """A group whose exchanges are timed."""

    def __init__(self, group: Group) -> None:
        self.rank, self.size, self.place, self.seconds, self._group = group.rank, group.size, "", 0.0, group

    def gather(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As `Systems` says."""
        began = perf_counter()
        everyone = self._group.gather(numbers)
        self.seconds += perf_counter() - began
        return everyone

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """As `Systems` says."""
        began = perf_counter()
        self._group.exchange(sends, receives)
        self.seconds += perf_counter() - began

    def doing(self, what: str) -> None:
        """As `Systems` says."""


def main() -> None:
    """Measures and writes."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    given = arguments.parse_args()
    machine = measure_machine()
    if machine.cores < 2:
        raise SystemExit("two systems of one core each need two cores")
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": machine.processor,
        "cores": machine.cores,
        "torch": version("torch"),
        "rounds": given.rounds,
    }
    earlier = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [row for row in earlier if row["shape"] not in given.shapes]
    rows += [{**_shape(name, given.rounds), **about} for name in given.shapes]
    rows.sort(key=lambda row: list(SHAPES).index(row["shape"]))
    write_json(RESULTS, {"command": "uv run python benchmarks/scaling.py", "rows": rows})


def _shape(name: str, rounds: int) -> dict[str, Any]:
    context = get_context("spawn")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ours, theirs = context.Pipe()
    workers = [context.Process(target=_work, args=(rank, port, name, rounds, theirs)) for rank in range(2)]
    for worker in workers:
        worker.start()
    theirs.close()
    row: dict[str, Any] = ours.recv()
    for worker in workers:
        worker.join()
    print(
        f"{name}: one system {row['one']['tokens_per_second']:,.0f} tokens/s, two {row['two_against_one']:.2f} x; "
        f"exchange {100 * row['two']['exchange_share']:.1f} % of the step; equal bits cost "
        f"{100 * (1 - row['reproducible_alone']):.1f} % alone, {100 * (1 - row['reproducible_together']):.1f} % on two",
        flush=True,
    )
    return row


def _work(rank: int, port: int, name: str, rounds: int, answer: Connection) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in variables.items()}
    group = Group()
    shape, sequences, microbatches = SHAPES[name]
    cores = share_of_cores(rank, 2)
    os.sched_setaffinity(0, cores)
    with Lanes(len(cores)) as lanes:
        seconds: dict[str, list[float]] = {}
        exchange: dict[str, list[float]] = {}
        steps = {}
        for kind, (together, reproducible) in KINDS.items():
            if together or rank == 0:
                timed = Timed(group)
                steps[kind] = (
                    _stepper(shape, sequences, microbatches, lanes, timed if together else ALONE, reproducible),
                    timed,
                )
        for i in range(rounds + 1):
            kinds = list(KINDS) if i % 2 else list(reversed(KINDS))
            for kind in kinds:
                group.gather(np.zeros(0))
                if kind not in steps:
                    continue
                step, timed = steps[kind]
                timed.seconds, began = 0.0, perf_counter()
                step()
                if i:  # the first one warms up
                    seconds.setdefault(kind, []).append(perf_counter() - began)
                    exchange.setdefault(kind, []).append(timed.seconds)
        group.gather(np.zeros(0))
    if rank == 0:
        tokens = sequences * microbatches * shape.context_length
        answer.send(_row(name, shape, tokens, seconds, exchange))
    group.close()


def _row(
    name: str, shape: Shape, tokens: int, seconds: dict[str, list[float]], exchange: dict[str, list[float]]
) -> dict[str, Any]:
    def ratio(a: str, b: str, factor: float = 1.0) -> float:
        return median(factor * x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    row: dict[str, Any] = {"shape": name, "params": shape.params, "tokens_a_system_and_step": tokens}
    for kind, (together, _) in KINDS.items():
        row[kind] = {
            "tokens_per_second": tokens * (2 if together else 1) / median(seconds[kind]),
            "exchange_share": median(x / y for x, y in zip(exchange[kind], seconds[kind], strict=True)),
        }
    row["two_against_one"] = ratio("one", "two", 2.0)
    # What is left of the speed of plain sums.
    row["reproducible_alone"] = ratio("one, fp32 sums", "one")
    row["reproducible_together"] = ratio("two, fp32 sums", "two")
    return row


def _stepper(
    shape: Shape, sequences: int, microbatches: int, lanes: Lanes, systems: Systems, reproducible: bool
) -> Callable[[], None]:
    learner = Learner(
        shape,
        seed=0,
        precision="bf16",
        lanes=lanes,
        kernels=load_kernels(),
        systems=systems,
        reproducible=reproducible,
    )
    generator = torch.Generator().manual_seed(systems.rank)
    samples = torch.randint(
        0, shape.vocab_size, (microbatches, sequences, shape.context_length + 1), generator=generator
    )
    tokens = systems.size * microbatches * sequences * shape.context_length
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        learner.gradients([lambda one=one: one for one in samples], tokens)
        learner.update(learner.norm(), 1e-4, count)

    return step


if __name__ == "__main__":
    main()
