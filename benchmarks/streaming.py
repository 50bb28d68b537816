"""Streamed training against resident training and against offloading elsewhere: tokens a second, peak memory.

    uv run --with deepspeed --with ninja python benchmarks/streaming.py CASE

Each runner has a process of its own on all cores; they take a step by turns while the others wait, in an order that
changes every round. Ratios are medians of ratios within a round. Results are written after every round, so a run may
be stopped at any time (Ctrl-C) and started again, which adds rounds to those of the same case. Peak memory is the
anonymous resident memory (RssAnon, read every 20 ms) of the process in the newest round; VmHWM has the program's own
files too. With --busy, for a machine that others use as well, a round says nothing of speed.

| command | what | disk | minutes on two cores at 340 GFLOP/s (130) |
| --- | --- | --- | --- |
| CASE = tiny | all four runners, a model of 1.2 M | 0.1 GB | 1 (2) |
| 111M | all four, 8 x 2,048 tokens a step: streamed at least 0.95 of resident | 6 GB | 3 rounds: 9 (20) |
| 111M-stay | both of ours, with embeddings that stay in memory | 6 GB | 3 rounds: 4 (8) |
| 590M | both of ours, 8 x 2,048: at least 0.90, in 2 GiB | 30 GB, or 13 GB | 1 round: 8 (20) |
| 590M --sequences 4 | the same on half the tokens | 21 GB | 1 round: 5 (11) |
| 1.3B | streamed, 8 x 2,048, in 6 GiB | 58 GB, or 28 GB | 1 step: 9 (23) |
| 2.7B | streamed, 2 x 2,048, in 8 GiB | 50 GB | 1 step: 7 (16) |
| 13B-layer | streamed, one layer of each kind of 13B, 1 x 2,048 | 13 GB | 1 step: 1 (3) |

Where the disk has no room for what layers keep (the larger figure), layers keep their inputs alone and are computed
once more, for a third more work; with no room for that either a case says so and ends. `--minutes 9` starts no round
that would end later. `--store FOLDER` says which disk. Without DeepSpeed its runner is left out and said so. Results
are in benchmarks/results/streaming.json.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
from streaming_table import GIB, RESULTS, table

from isoflop.durable import write_json
from isoflop.recipe import Shape, training_flops
from isoflop.recipe.footprint import Footprint, resident_footprint, streamed_footprint
from isoflop.recipe.streaming import GROUP_TOKENS, Cut
from isoflop.systems.machine import measure_machine


@dataclass(frozen=True)
class Case:
    """A shape, how many sequences a step has, who trains it, and what the streamed process may hold."""

    shape: Shape
    sequences: int
    runners: tuple[str, ...]
    promise_bytes: int | None
    rounds: int
    embeddings_stay: bool = False


ALL = ("resident", "streamed", "fully_shard", "deepspeed")
CASES = {
    "tiny": Case(Shape(3, 128, 4, 4096, 256), 8, ALL, None, 3),
    "111M": Case(Shape(10, 768, 12, 50257, 2048), 8, ALL, None, 3),
    "111M-stay": Case(Shape(10, 768, 12, 50257, 2048), 8, ("resident", "streamed"), None, 3, embeddings_stay=True),
    "590M": Case(Shape(18, 1536, 12, 50257, 2048), 8, ("resident", "streamed"), 2 * GIB, 1),
    "1.3B": Case(Shape(24, 2048, 16, 50257, 2048), 8, ("streamed",), 6 * GIB, 1),
    "2.7B": Case(Shape(32, 2560, 32, 50257, 2048), 2, ("streamed",), 8 * GIB, 1),
    "13B-layer": Case(Shape(1, 5120, 40, 50257, 2048), 1, ("streamed",), None, 1),
}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=list(CASES))
    parser.add_argument("--show", action="store_true", help="run nothing: the table of the results at hand")
    parser.add_argument("--sequences", type=int, help="of a step, instead of the case's")
    parser.add_argument("--rounds", type=int, help="instead of the case's")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no round that would end later")
    parser.add_argument("--busy", action="store_true", help="others use the machine: memory counts, seconds do not")
    parser.add_argument("--runners", nargs="*", choices=list(ALL), help="these alone")
    parser.add_argument("--store", type=Path, default=Path("/var/tmp"), help="a folder on the disk for the store")
    given = parser.parse_args()
    if given.show:
        print(table(), end="")
        return
    if given.case is None:
        parser.error("which case?")
    case = CASES[given.case]
    sequences = given.sequences or case.sequences
    names = [name for name in case.runners if name in (given.runners or ALL)]
    if "deepspeed" in names and find_spec("deepspeed") is None:
        print("left out: deepspeed is not installed (uv run --with deepspeed --with ninja)")
        names.remove("deepspeed")
    cores = measure_machine().cores
    with _folder(given.store) as folder:
        cut = _cut(case, sequences, cores, folder)
        foretold = {
            "resident": resident_footprint(case.shape, "bf16", 1, cores, "cpu"),
            "streamed": streamed_footprint(case.shape, "bf16", True, cut, "disk", cores, 1, "cpu"),
        }
        _refuse_without_memory([foretold[name] for name in names if name in foretold])
        key = given.case if sequences == case.sequences else f"{given.case}, {sequences} sequences"
        row = _row(key, case, cut, foretold["streamed"])
        _measure(key, case, cut, row, names, given.rounds or case.rounds, given.minutes * 60, folder, given.busy)


def _cut(case: Case, sequences: int, cores: int, folder: Path) -> Cut:
    """One group a step; layers are computed once more where the disk asks for it."""
    free = shutil.disk_usage(folder).free
    most = max(1, min(sequences, GROUP_TOKENS // case.shape.context_length))
    needed = 0
    for recompute in (False, True):
        cut = Cut(1, sequences, most, recompute, embeddings_stay=case.embeddings_stay)
        needed = streamed_footprint(case.shape, "bf16", True, cut, "disk", cores, 1, "cpu").disk_bytes
        if needed < 0.97 * free:
            return cut
    sys.exit(f"{folder}: the store needs {needed / 1e9:.0f} GB, free are {free / 1e9:.0f} GB; use --store elsewhere")


def _refuse_without_memory(needed: list[Footprint]) -> None:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    wanted = sum(one.device_bytes + one.host_bytes for one in needed)
    if wanted > available:
        sys.exit(f"the runners need {wanted / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free; use --runners")


def _measure(
    key: str,
    case: Case,
    cut: Cut,
    row: dict[str, Any],
    names: list[str],
    rounds: int,
    seconds: float,
    folder: Path,
    busy: bool,
) -> None:
    end = perf_counter() + seconds
    tokens = cut.microbatches * case.shape.context_length
    context = get_context("spawn")
    runners: dict[str, Connection] = {}
    for name in names:
        ours, theirs = context.Pipe()
        work = (theirs, name, case.shape, cut, folder / name)
        # As `isoflop train` has it for streamed runs.
        os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(name == "streamed"))
        context.Process(target=_work, args=work, daemon=True).start()
        theirs.close()
        runners[name] = ours
        kind, value = ours.recv()
        if kind == "failed":
            print(f"{key}: {name} does not run here: {value}", flush=True)
            row["failed"][name] = value
            del runners[name]
        else:
            print(f"{key}: {name} began and took a first small step in {value:.0f} s", flush=True)
    longest = 0.0
    for number in range(rounds):
        began = perf_counter()
        if began + longest > end:
            print("no time for another round")
            break
        turns: dict[str, Any] = {}
        order = list(runners)[number % len(runners) :] + list(runners)[: number % len(runners)]
        for name in order:
            runners[name].send(number + 1)
            kind, turns[name] = runners[name].recv()
            if kind == "failed":
                sys.exit(f"{key}: {name}: {turns[name]}")
            one = turns[name]
            print(f"{name:12} {one['seconds']:8.1f} s {tokens / one['seconds']:9,.0f} tokens/s", flush=True)
        longest = max(longest, perf_counter() - began)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        row["rounds"].append({"time": time, "busy": busy, **turns})
        _write(key, _summed_up(row, tokens, case))
    if row["rounds"]:
        _show(key, row)


def _row(key: str, case: Case, cut: Cut, foretold: Footprint) -> dict[str, Any]:
    """What is there of this case, measured on the same machine, or a new one."""
    machine = measure_machine()
    about = {
        "processor": machine.processor,
        "cores": machine.cores,
        "bf16_flops_per_second": machine.bf16_flops_per_second,
        "torch": version("torch"),
        "deepspeed": _version("deepspeed"),
        "shape": asdict(case.shape),
        "cut": asdict(cut),
    }
    earlier = json.loads(RESULTS.read_text())["cases"].get(key) if RESULTS.exists() else None
    if earlier is not None:
        earlier["cut"] = asdict(Cut(**earlier["cut"]))  # ways of cutting that came later
    if earlier is not None and all(earlier[name] == value for name, value in about.items() if name != "deepspeed"):
        return {**earlier, **about, "foretold": asdict(foretold)}
    return {**about, "rounds": [], "failed": {}, "foretold": asdict(foretold)}


def _summed_up(row: dict[str, Any], tokens: int, case: Case) -> dict[str, Any]:
    """The row with medians over its rounds, and memory of the newest: it is the code's of today."""
    rounds = row["rounds"]
    quiet = [one for one in rounds if not one.get("busy")]
    row["runners"] = {}
    for name in sorted({name for one in rounds for name in one} - {"time", "busy"}):
        newest = [one[name] for one in rounds if name in one][-1]
        seconds = [one[name]["seconds"] for one in quiet if name in one]
        speed = tokens / median(seconds) if seconds else None
        pairs = [one["streamed"]["seconds"] / one[name]["seconds"] for one in quiet if {name, "streamed"} <= set(one)]
        row["runners"][name] = {
            "tokens_per_second": speed,
            "flops_per_second": speed and speed * training_flops(case.shape).model,
            "streamed_times": 1 / median(pairs) if pairs else None,
            "peak_anonymous_bytes": newest["peak_anonymous_bytes"],
            "peak_resident_bytes": newest["peak_resident_bytes"],
        }
    ours = row["runners"].get("streamed")
    if ours is not None:
        peak = ours["peak_anonymous_bytes"]
        row["peak_of_foretold"] = peak / (row["foretold"]["device_bytes"] + row["foretold"]["host_bytes"])
        row["promise_bytes"] = case.promise_bytes
        row["promise_kept"] = None if case.promise_bytes is None else peak <= case.promise_bytes
        both = [one for one in rounds if {"resident", "streamed"} <= set(one)]
        row["same_losses_as_resident"] = (
            all(one["resident"]["loss"] == one["streamed"]["loss"] for one in both) if both else None
        )
    return row


def _work(connection: Connection, name: str, shape: Shape, cut: Cut, folder: Path) -> None:
    began = perf_counter()
    folder.mkdir()
    peak = _Peak()
    try:
        from streaming_runners import RUNNERS

        step = RUNNERS[name](shape, cut, measure_machine().cores, folder)
        step(_samples(shape, min(cut.microbatches, 2), 0))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"))
        return
    connection.send(("first", perf_counter() - began))
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        samples = _samples(shape, cut.microbatches, number)
        began = perf_counter()
        try:
            loss = step(samples)
        except Exception as error:
            connection.send(("failed", f"{type(error).__name__}: {error}"))
            return
        seconds = perf_counter() - began
        link = getattr(step, "link_bytes", None)
        connection.send(("step", {"seconds": seconds, "loss": loss, "link_bytes": link, **peak.read()}))


class _Peak:
    """The largest memory that this process has held."""

    def __init__(self) -> None:
        self._anonymous = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def read(self) -> dict[str, int]:
        """In bytes."""
        return {"peak_anonymous_bytes": self._anonymous, "peak_resident_bytes": _status("VmHWM")}

    def _watch(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, _status("RssAnon"))
            sleep(0.02)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _samples(shape: Shape, sequences: int, number: int) -> torch.Tensor:
    size = (sequences, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, size, generator=torch.Generator().manual_seed(number))


@contextmanager
def _folder(store: Path) -> Iterator[Path]:
    """A folder for the stores, removed at the end, also at that of a SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="isoflop-streaming-", dir=store))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(key: str, row: dict[str, Any]) -> None:
    cases = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    command = "uv run --with deepspeed --with ninja python benchmarks/streaming.py CASE"
    write_json(RESULTS, {"command": command, "cases": {**cases, key: row}})


def _show(key: str, row: dict[str, Any]) -> None:
    print(f"\n{key}: {len(row['rounds'])} rounds, {row['cut']['microbatches']} sequences a step")
    print(f"{'':12}{'tokens/s':>10}{'GFLOP/s':>9}{'streamed x':>12}{'anonymous':>12}{'resident set':>14}")
    for name, one in row["runners"].items():
        times = "-" if one["streamed_times"] is None else f"{one['streamed_times']:.2f}"
        speed, rate = "-", "-"
        if one["tokens_per_second"]:
            speed, rate = f"{one['tokens_per_second']:,.0f}", f"{one['flops_per_second'] / 1e9:.0f}"
        print(
            f"{name:12}{speed:>10}{rate:>9}{times:>12}"
            f"{one['peak_anonymous_bytes'] / 1e9:>9.2f} GB{one['peak_resident_bytes'] / 1e9:>11.2f} GB"
        )
    if "streamed" in row["runners"]:
        kept = {None: "no promise", True: "promise kept", False: "PROMISE BROKEN"}[row["promise_kept"]]
        print(f"streamed memory: {row['peak_of_foretold']:.2f} of what was foretold; {kept}")
        print(f"same losses as resident: {row['same_losses_as_resident']}")


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    main()
