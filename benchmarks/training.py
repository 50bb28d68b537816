"""Tokens a second of ours and of what a user would pick instead, on the same tokens.

uv run --with lightning,psutil,accelerate python benchmarks/training.py --nanogpt CHECKOUT --litgpt CHECKOUT

and on a GPU with `torchtitan==0.3.0` in the list after `--with`.

Each trains the same shape in a process of its own, on all cores or on the GPU; they take a step by turns while the
others wait, in an order that changes every round, and a matrix product takes its turn among them: the best of it is the
peak. Ratios are medians of ratios within a round. Memory of ours stands beside what the plan foretells. Without a
checkout a peer is left out and said so; so is torchtitan, which is for GPUs, on a processor (`--peers torchtitan` asks
for it all the same); where memory is too small for all at once, `--peers` takes some of them a time.
Writes benchmarks/results/training.json and draws docs/figures/training.svg.
"""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from peers import RUNNERS, Work, samples_of

from isoflop.durable import write_json
from isoflop.recipe import Shape, training_flops
from isoflop.systems.device import training_device
from isoflop.systems.machine import available_cores, measure_machine

RESULTS = Path(__file__).parent / "results" / "training.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "training.svg"
OURS = "isoflop"
PEERS = [name for name in RUNNERS if name != OURS]
PEAK, SIDE = "matrix product", 8192 if torch.cuda.is_available() else 2048
PRODUCTS = 20
# name: shape, sequences of a microbatch, sequences of a step
SHAPES = (
    {
        "111M": (Shape(10, 768, 12, 50257, 2048), 16, 64),
        "590M": (Shape(18, 1536, 12, 50257, 2048), 8, 32),
        "1.3B": (Shape(24, 2048, 16, 50257, 2048), 4, 16),
    }
    if torch.cuda.is_available()
    else {
        "tiny": (Shape(4, 128, 4, 4096, 256), 8, 16),
        "small": (Shape(6, 384, 6, 8192, 512), 4, 8),
        "111M": (Shape(10, 768, 12, 50257, 2048), 1, 2),
    }
)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--litgpt", type=Path, help="a checkout of Lightning-AI/litgpt")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="these alone; results of others stay")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    checkouts = {"nanoGPT": given.nanogpt, "litgpt": given.litgpt}
    left_out = [name for name, path in checkouts.items() if path is None]
    if left_out:
        print(f"left out for want of a checkout: {', '.join(left_out)}")
    if given.peers is PEERS and not torch.cuda.is_available():
        print("torchtitan is left out: it is for GPUs, and there is none")
        left_out.append("torchtitan")
    names = [OURS, *(name for name in given.peers if name not in left_out)]
    machine = measure_machine()
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": machine.processor,
        "cores": machine.cores,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "rounds": given.rounds,
    }
    earlier = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    by_shape = {row["shape"]: row for row in earlier}
    for name in given.shapes:
        row = {**_shape(name, names, checkouts, given.rounds), **about}
        others = {peer: one for peer, one in by_shape.get(name, row)["runners"].items() if peer not in given.peers}
        row["runners"] = {**others, **row["runners"]}
        by_shape[name] = row
        _show(row)
    rows = list(by_shape.values())
    rows.sort(key=lambda row: list(SHAPES).index(row["shape"]))
    write_json(RESULTS, {"command": "uv run python benchmarks/training.py", "rows": rows})
    _draw(rows)


def _shape(name: str, names: list[str], checkouts: dict[str, Path | None], rounds: int) -> dict[str, Any]:
    shape, _, sequences = SHAPES[name]
    context = get_context("spawn")
    runners: dict[str, Connection] = {}
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for runner in [*names, PEAK]:
        ours, theirs = context.Pipe()
        context.Process(target=_work, args=(theirs, runner, name, checkouts.get(runner)), daemon=True).start()
        theirs.close()
        ours.send(0)
        kind, value = ours.recv()
        if kind == "failed":
            failed[runner] = value
            print(f"{name}: {runner} does not run here: {value}", flush=True)
            continue
        runners[runner], first[runner] = ours, value
    seconds: dict[str, list[float]] = {runner: [] for runner in runners}
    for i in range(rounds + 1):
        for runner in list(runners)[i % len(runners) :] + list(runners)[: i % len(runners)]:
            try:
                runners[runner].send(i + 1)
                _, value = runners[runner].recv()
            except (BrokenPipeError, EOFError) as error:
                raise SystemExit(f"{name}: {runner} was killed in round {i}: too little memory? use --peers") from error
            if i:  # the first round warms up
                seconds[runner].append(value)
    peaks = {}
    for runner, connection in runners.items():
        connection.send(None)
        _, peaks[runner] = connection.recv()
    del first[PEAK]
    peak = 2 * SIDE**3 * PRODUCTS / min(seconds.pop(PEAK))
    tokens = sequences * shape.context_length
    found = {
        runner: {
            "tokens_per_second": tokens / median(times),
            "share_of_peak": tokens / median(times) * training_flops(shape).model / peak,
            "ours_times": median(theirs / ours for theirs, ours in zip(times, seconds[OURS], strict=True)),
            "peak_bytes": peaks[runner],
            "seconds_to_first_step": first[runner],
        }
        for runner, times in seconds.items()
    }
    return {
        "shape": name,
        "params": shape.params,
        "tokens_a_step": tokens,
        "bf16_flops_per_second": peak,
        "runners": found,
        "failed": failed,
    }


def _work(connection: Connection, runner: str, name: str, checkout: Path | None) -> None:
    began = perf_counter()
    shape, microbatch, sequences = SHAPES[name]
    # Ours alone keeps to kernels that give the same bits again.
    device = training_device() if runner == OURS else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Work(shape, microbatch, sequences, available_cores(), device, checkout)
    connection.recv()
    try:
        step = _products(work) if runner == PEAK else RUNNERS[runner](work)
        step(samples_of(shape, sequences, 0))
        _finish(work.device)
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
        return
    connection.send(("first", perf_counter() - began))
    while (number := connection.recv()) is not None:
        samples = samples_of(shape, sequences, number)
        began = perf_counter()
        step(samples)
        _finish(work.device)
        connection.send(("step", perf_counter() - began))
    connection.send(("peak", _peak_bytes(work.device)))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _products(work: Work) -> Callable[[torch.Tensor], None]:
    """What stands for the peak: bf16 products, as one step."""
    torch.set_num_threads(work.cores)
    square = torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device=work.device)

    def step(_: torch.Tensor) -> None:
        for _ in range(PRODUCTS):
            square @ square

    return step


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _show(row: dict[str, Any]) -> None:
    print(f"\n{row['shape']}: {row['params'] / 1e6:.1f} M parameters, {row['tokens_a_step']:,} tokens a step")
    print(f"{'':22}{'tokens/s':>10}{'of peak':>9}{'ours x':>8}{'memory':>10}{'first step':>12}")
    for runner, one in row["runners"].items():
        print(
            f"{runner:22}{one['tokens_per_second']:>10,.0f}{one['share_of_peak']:>9.0%}{one['ours_times']:>8.2f}"
            f"{one['peak_bytes'] / 1e9:>8.2f} GB{one['seconds_to_first_step']:>10.0f} s",
            flush=True,
        )


def _draw(rows: list[dict[str, Any]]) -> None:
    """Bars of each shape's share of the peak, the same file for the same rows."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "isoflop", "svg.fonttype": "none", "font.size": 9}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 2.8), layout="constrained")
        for panel, row in zip(figure.subplots(1, len(rows), sharey=True, squeeze=False)[0], rows, strict=True):
            names = list(row["runners"])
            shares = [100 * row["runners"][name]["share_of_peak"] for name in names]
            bars = panel.bar(range(len(names)), shares, color=["#4477aa", *["#bbbbbb"] * (len(names) - 1)])
            panel.bar_label(bars, fmt="%.0f")
            panel.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], rotation=30)
            panel.set_title(f"{row['shape']} ({row['params'] / 1e6:.1f} M)")
            panel.spines[["top", "right"]].set_visible(False)
        figure.supylabel("% of the bf16 matrix peak")
        FIGURE.parent.mkdir(exist_ok=True)
        figure.savefig(FIGURE, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
