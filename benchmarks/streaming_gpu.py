"""Streamed training through a GPU: how fast its link, host and disk are, and how fast a step then is.

    uv run python benchmarks/streaming_gpu.py [--store FOLDER] [--minutes 10]

First the rates of link, host memory and disk. Then 1.3B: resident, and streamed in groups of more and more tokens
beside what the rates foretell, all images on their way; then the smallest group with images that stay where the device
has room. Then 6.7B, streamed and resident where it fits; then 13B, its store where it fits. Each has a process of its
own; what no longer fits into the minutes, the memory or the disk is said and left out. Inputs of layers that the device
has no room for wait in host memory. Results are in benchmarks/results/streaming_gpu.json. With --foretell nothing runs:
what each case would hold and move, on any machine. NEVER RUN ON A GPU: `--tiny` goes through all of it on a processor,
and tests/streaming/test_gpu_benchmark.py through every line under a stand-in for a GPU.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from isoflop.durable import write_json
from isoflop.model import Lanes, load_kernels
from isoflop.recipe import STANDARD, Shape, training_flops
from isoflop.recipe.footprint import (
    Footprint,
    device_link_bytes,
    fitted_cut,
    resident_footprint,
    streamed_footprint,
)
from isoflop.recipe.streaming import Cut
from isoflop.streaming.pages import DirectFile, pages
from isoflop.systems.device import training_device
from isoflop.systems.group import ALONE
from isoflop.train.journal import Journal
from isoflop.train.learner import Learner
from isoflop.train.on_device import DeviceLearner
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner

RESULTS = Path(__file__).parent / "results" / "streaming_gpu.json"
MIB, STEPS = 2**20, 3
# What the optimizer reads and writes of a parameter: weights, moments, gradient; and weights, moments, image.
UPDATE_BYTES = 16 + 14


@dataclass(frozen=True)
class Case:
    """A model, whose execution, and how many microbatches of how many sequences pass a layer together.

    With `spare` images stay where the device has room.
    """

    name: str
    shape: Shape
    where: Literal["resident", "host", "disk"]
    sequences: int
    most: int
    spare: bool = True

    @property
    def tokens(self) -> int:
        """Of a step, which is one group."""
        return self.sequences * self.most * self.shape.context_length


def cases(tiny: bool) -> Iterator[Case]:
    """In the order of their worth."""
    small, middle, large = (
        (Shape(2, 64, 2, 300, 32), Shape(3, 64, 2, 300, 32), Shape(4, 64, 2, 300, 32))
        if tiny
        else (Shape(24, 2048, 16, 50257, 2048), Shape(32, 4096, 32, 50257, 2048), Shape(40, 5120, 40, 50257, 2048))
    )
    yield Case("1.3B", small, "resident", 4, 8)
    for most in (1, 2, 4, 8):
        yield Case("1.3B", small, "host", 4, most, spare=False)
    yield Case("1.3B", small, "host", 4, 1)
    yield Case("6.7B", middle, "host", 4, 8)
    yield Case("6.7B", middle, "resident", 4, 8)
    yield Case("13B", large, "disk", 4, 4)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("/var/tmp"), help="a folder on the disk for the store")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin nothing later, and stop what is at work")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the processor: shows that it works")
    parser.add_argument("--foretell", action="store_true", help="run nothing: bytes of every case on an 80 GB device")
    given = parser.parse_args()
    if given.foretell:
        foretell(cases(given.tiny), 80 * 10**9)
        return
    end = perf_counter() + 60 * given.minutes
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny goes through all of it on a processor")
    device = torch.device("cpu") if given.tiny else training_device()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the folder
    folder = Path(tempfile.mkdtemp(prefix="isoflop-streaming-", dir=given.store))
    try:
        rates = probe(device, folder, (16 if given.tiny else 1024) * MIB)
        print(", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items()), flush=True)
        found: dict[str, Any] = {
            "device": "cpu" if given.tiny else torch.cuda.get_device_name(),
            "cores": os.cpu_count(),
            "torch": version("torch"),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "bytes_per_second": rates,
            "cases": [],
        }
        resident: dict[str, float] = {}
        for case in cases(given.tiny):
            row = {**asdict(case), **measured(case, device, folder, end)}
            if case.where == "resident" and "seconds" in row:
                resident[case.name] = row["seconds"] / case.tokens
            if case.where != "resident" and case.name in resident:
                row["foretold_seconds"] = foretold_seconds(case, memory_of(device), resident[case.name], rates)
            found["cases"].append(row)
            print(line(case, row), flush=True)
            if not given.tiny:
                write_json(RESULTS, found)
        if given.tiny:
            print(json.dumps(found["cases"][-1]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def foretell(these: Iterator[Case], device_bytes: int) -> None:
    """Prints what each case holds and what its step moves."""
    print("model  weights    tokens     device       host       disk  link a step  inputs of layers, images that stay")
    for case in these:
        cut = cut_of_case(case, device_bytes)
        needs = footprint(case, cut)
        sizes = (needs.device_bytes, needs.host_bytes, needs.disk_bytes if case.where == "disk" else 0)
        cells = "".join(f"{size / 1e9:8.1f} GB" for size in sizes)
        fits = "" if needs.device_bytes <= device_bytes else "  does not fit"
        where = "in host memory" if cut.offload else "on the device"
        link = f"{needs.link_bytes / 1e9:10.1f} GB"
        print(f"{case.name:6} {case.where:9}{case.tokens:8,}{cells}{link}  {where}, {cut.staying} layers{fits}")


def cut_of_case(case: Case, device_bytes: int) -> Cut:
    """One group a step, as the device has room for."""
    cut = Cut(case.sequences, case.most, case.most)
    if case.where == "resident":
        return cut
    fitted = fitted_cut(case.shape, "bf16", True, cut, device_bytes)
    return fitted if case.spare else replace(fitted, staying=0)


def footprint(case: Case, cut: Cut) -> Footprint:
    """On a GPU's machine."""
    if case.where == "resident":
        return resident_footprint(case.shape, "bf16", case.sequences, 1, "cuda")
    return streamed_footprint(case.shape, "bf16", True, cut, case.where, 1, 1, "cuda")


def line(case: Case, row: dict[str, Any]) -> str:
    """A case in one line."""
    what = f"{case.name:5} {case.where:9} {case.tokens:7,} tokens"
    if "why" in row:
        return f"{what}  left out: {row['why']}"
    speed, memory = case.tokens / row["seconds"], f"{row['device_bytes'] / 1e9:.1f} GB on the device"
    rate = speed * training_flops(case.shape).model / 1e12
    foretold = f", foretold {case.tokens / row['foretold_seconds']:,.0f}" if "foretold_seconds" in row else ""
    return f"{what}  {speed:9,.0f} tokens/s{foretold}, {rate:.0f} TFLOP/s, {memory}"


def foretold_seconds(case: Case, device_bytes: int, seconds_per_token: float, rates: dict[str, float]) -> float:
    """Of a streamed step. Its forward pass takes as long as computing, the images' way, or the update that goes on
    beside it; its backward pass, with layers computed once more, as computing, the images' way, or that of the sums.
    """
    come, leave = device_link_bytes(case.shape, "bf16", True, cut_of_case(case, device_bytes))
    forward, half = case.tokens * seconds_per_token / 3, come / rates["to the device"] / 2
    # A copy reads and writes.
    update = UPDATE_BYTES * case.shape.params / (2 * rates["host copy"])
    return max(forward, half, update) + max(3 * forward, half, leave / rates["from the device"])


def memory_of(device: torch.device) -> int:
    """Bytes of the device; as good as no end where the processor is it."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**62


def probe(device: torch.device, folder: Path, n_bytes: int) -> dict[str, float]:
    """Bytes a second."""
    at = torch.get_device_module(device)
    host, other, there = pages(n_bytes, device), pages(n_bytes), torch.empty(n_bytes, dtype=torch.uint8, device=device)
    file = DirectFile(folder / "probe", "scratch")

    def rate(work: Callable[[], object]) -> float:
        work()
        at.synchronize()
        began = perf_counter()
        work()
        at.synchronize()
        return n_bytes / (perf_counter() - began)

    def write() -> None:
        file.write(0, host)
        file.finish()

    with file:
        return {
            "to the device": rate(lambda: there.copy_(host, non_blocking=True)),
            "from the device": rate(lambda: host.copy_(there, non_blocking=True)),
            "host copy": rate(lambda: other.copy_(host)),
            "disk write": rate(write),
            "disk read": rate(lambda: file.read(0, n_bytes, host)),
        }


def measured(case: Case, device: torch.device, folder: Path, end: float) -> dict[str, Any]:
    """Seconds of the fastest step after the first, in a process of its own; or why there are none."""
    if device.type == "cuda":
        memory = memory_of(device)
        needs = footprint(case, cut_of_case(case, memory))
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for what, need, there in (
            ("on the device", needs.device_bytes, memory),
            ("of host memory", needs.host_bytes, host),
            ("on the disk", needs.disk_bytes if case.where == "disk" else 0, shutil.disk_usage(folder).free),
        ):
            if need > there:
                return {"why": f"needs {need / 1e9:.0f} GB {what}, there are {there / 1e9:.0f} GB"}
    ours, theirs = get_context("spawn").Pipe()
    worker = get_context("spawn").Process(target=_work, args=(theirs, case, device.type, folder / "store"), daemon=True)
    worker.start()
    theirs.close()
    try:
        if not ours.poll(max(0.0, end - perf_counter())):
            return {"why": "no time left"}
        answer: dict[str, Any] = ours.recv()
        return answer
    except EOFError:
        return {"why": "its process died"}
    finally:
        worker.kill()
        worker.join()
        shutil.rmtree(folder / "store", ignore_errors=True)


def _work(connection: Connection, case: Case, kind: str, folder: Path) -> None:
    try:
        # As training has it: with its number, and deterministic kernels alone.
        connection.send(_steps(case, torch.device("cpu") if kind == "cpu" else training_device(), folder))
    except Exception as error:
        connection.send({"why": f"{type(error).__name__}: {str(error).splitlines()[:1]}"})


def _steps(case: Case, device: torch.device, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    learner = _learner(case, device, folder)
    seconds, loss = [], 0.0
    for number in range(STEPS):
        samples = _samples(case, number)
        began = perf_counter()
        if number:
            learner.commit({"step": number})  # of a streamed step the update goes on beside the next one
        loss = learner.gradients([lambda one=one: one for one in samples], case.tokens)  # type: ignore[misc]
        learner.update(learner.norm(), 1e-4, number + 1)
        torch.get_device_module(device).synchronize()
        seconds.append(perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    learner.close()
    return {"seconds": min(seconds[1:]), "loss": loss, "device_bytes": peak, "link_bytes": learner.link_bytes}


def _learner(case: Case, device: torch.device, folder: Path) -> Learner | StreamedLearner:
    if case.where == "resident":
        resident = DeviceLearner if device.type == "cuda" else Learner
        return resident(case.shape, seed=0, precision="bf16", lanes=Lanes(1), kernels=None, device=device)
    on_disk = case.where == "disk"
    learner = StreamedLearner(
        case.shape,
        precision="bf16",
        lanes=Lanes(1),
        kernels=load_kernels(),
        optimizer=AdamW(),
        parametrisation=STANDARD,
        systems=ALONE,
        reproducible=True,
        cut=cut_of_case(case, memory_of(device)),
        folder=folder if on_disk else None,
        journal=Journal(folder / "journal.json", {}) if on_disk else None,
        device=device,
    )
    learner.create(0)
    return learner


def _samples(case: Case, number: int) -> list[Tensor]:
    size = (case.most, case.sequences, case.shape.context_length + 1)
    return list(torch.randint(0, case.shape.vocab_size, size, generator=torch.Generator().manual_seed(number)))


if __name__ == "__main__":
    main()
