"""What muP costs: tokens/s of whole training steps under muP and standard, alternating in one process.

    uv run python benchmarks/mup_speed.py               # two minutes, on one lane

Writes benchmarks/results/mup_speed.json.
"""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import torch

from isoflop.config.family import Recipe
from isoflop.durable import write_json
from isoflop.model import Lanes, load_kernels
from isoflop.recipe import Shape
from isoflop.recipe.parametrisation import parametrisation_of
from isoflop.systems import measure_machine
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.learner import Learner

RESULTS = Path(__file__).parent / "results" / "mup_speed.json"
SEQUENCES = 8
# Width and rounds, more where a step is short: the pocket family's smallest and largest, and a wider one.
CASES = ((32, 501), (80, 301), (256, 101))


def main() -> None:
    machine = measure_machine()
    lanes = Lanes(1)
    keep_freed_memory()
    document = {"processor": machine.processor, "cores": machine.cores, "torch": machine.torch}
    document |= {"lanes": 1, "date": datetime.now(UTC).date().isoformat()}
    rows = []
    for width, rounds in CASES:
        rows.append(_measured(width, rounds, lanes))
        print("width {width}: standard {standard:,.0f} tokens/s, muP {mup:,.0f}, ratio {ratio:.4f}".format(**rows[-1]))
    write_json(RESULTS, {**document, "rows": rows})


def _measured(width: int, rounds: int, lanes: Lanes) -> dict[str, float]:
    """Medians over the rounds; a round is one step of each, and which goes first changes with every round."""
    shape = Shape(n_layers=3, d_model=width, n_heads=2, vocab_size=1024, context_length=256)
    kinds: tuple[Literal["standard", "mup"], ...] = ("standard", "mup")
    steps = {kind: _Step(kind, shape, lanes) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for kind in steps:
        for _ in range(3):
            steps[kind]()
    for i in range(rounds):
        for kind in sorted(steps, reverse=i % 2 == 0):
            began = perf_counter()
            steps[kind]()
            seconds[kind].append(perf_counter() - began)
    tokens = SEQUENCES * shape.context_length
    ratio = median(a / b for a, b in zip(seconds["standard"], seconds["mup"], strict=True))
    speeds = {kind: tokens / median(times) for kind, times in seconds.items()}
    return {"width": width, "tokens_a_step": tokens, "rounds": rounds, **speeds, "ratio": ratio}


class _Step:
    """One training step on one lane, as train() makes it."""

    def __init__(self, kind: Literal["standard", "mup"], shape: Shape, lanes: Lanes) -> None:
        self._learner = Learner(
            shape,
            seed=0,
            precision="bf16",
            lanes=lanes,
            kernels=load_kernels(),
            parametrisation=parametrisation_of(kind, Recipe(base_width=32), shape),
        )
        self._samples = torch.randint(0, 1024, (SEQUENCES, 257), generator=torch.Generator().manual_seed(0))
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        self._learner.gradients([lambda: self._samples], self._samples[:, 1:].numel())
        self._learner.update(self._learner.norm(), 1e-4, self._count)


if __name__ == "__main__":
    main()
