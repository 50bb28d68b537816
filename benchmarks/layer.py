"""Processor time of a layer's forward and backward pass on one core, with products of our own and with PyTorch's.

    uv run python benchmarks/layer.py [--rounds 7]

The shapes are those of training.py. Both take turns in one process; medians of the thread's processor time, which other
programs change little. Where a processor does not multiply bf16 there is nothing to compare. Writes
benchmarks/results/layer.json.
"""

import argparse
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import torch
from torch import Tensor
from training import SHAPES

from isoflop.durable import write_json
from isoflop.model import FusedGPT, Gradients, Weights, initialise, load_kernels
from isoflop.recipe import Shape
from isoflop.systems.machine import processor_name
from isoflop.train.allocator import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "layer.json"


class Nowhere(Gradients):
    """Gradients that nobody asks for."""

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """As `Gradients` says."""

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """As `Gradients` says."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    kernels = load_kernels()
    if kernels is None or not kernels.multiplies(1):
        raise SystemExit("this processor does not multiply bf16, or there is no C compiler: nothing to compare")
    keep_freed_memory()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, (shape, sequences, _) in SHAPES.items():
        ours, theirs = (FusedGPT(shape, torch.bfloat16, kernels) for _ in range(2))
        theirs._multiplies = False
        found = _seconds({"ours": ours, "PyTorch's": theirs}, shape, sequences, given.rounds)
        rows.append({"shape": name, **found})
        print(name, ", ".join(f"{what} {1e3 * seconds:.1f} ms" for what, seconds in found.items()), flush=True)
    about = {"date": date.today().isoformat(), "processor": processor_name(), "torch": version("torch")}
    write_json(RESULTS, {**about, "rounds": given.rounds, "rows": rows})


def _seconds(models: dict[str, FusedGPT], shape: Shape, sequences: int, rounds: int) -> dict[str, float]:
    weights = Weights(shape, initialise(shape, 0).flat)
    n, d = sequences * shape.context_length, shape.d_model
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = thread_time()
        done = work()
        seconds.setdefault(what, []).append(thread_time() - began)
        return done

    images = {name: model.image(weights).layer(0) for name, model in models.items()}
    w, nowhere = weights.layer(0), Nowhere()
    for _ in range(rounds + 1):
        for name, model in models.items():
            image = images[name]
            out, saved = timed(f"{name} forward", lambda m=model, i=image: m.layer(w, i, x, sequences))
            timed(f"{name} backward", lambda m=model, i=image, s=saved, o=out: m.layer_backward(0, w, i, s, o, nowhere))
    return {what: median(times[1:]) for what, times in seconds.items()}  # the first round warms up


if __name__ == "__main__":
    main()
