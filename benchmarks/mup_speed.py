"""What muP costs: tokens/s of whole training steps under muP and standard, alternating in one process.

    uv run python benchmarks/mup_speed.py               # two minutes

Writes benchmarks/results/mup_speed.json.
"""

from pathlib import Path
from statistics import median
from time import perf_counter

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
# Width, sequences a step: the pocket family's largest, and a wider one.
CASES = ((80, 16), (256, 8))
ROUNDS = 41


def main() -> None:
    machine = measure_machine()
    torch.set_num_threads(1)  # so that what else the machine does disturbs little: two threads wait for each other
    keep_freed_memory()
    document = {"processor": machine.processor, "cores": machine.cores, "torch": machine.torch}
    document |= {"threads": 1, "rounds": ROUNDS}
    rows = []
    for width, sequences in CASES:
        rows.append(_measured(width, sequences))
        print("width {width}: standard {standard:,.0f} tokens/s, muP {mup:,.0f}, ratio {ratio:.4f}".format(**rows[-1]))
    write_json(RESULTS, {**document, "rows": rows})


def _measured(width: int, sequences: int) -> dict[str, float]:
    """Medians over the rounds; a round is one step of each, and which goes first changes with every round."""
    shape = Shape(n_layers=3, d_model=width, n_heads=2, vocab_size=1024, context_length=256)
    steps = {kind: _Step(kind, shape, sequences) for kind in ("standard", "mup")}
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for kind in steps:
        for _ in range(3):
            steps[kind]()
    for i in range(ROUNDS):
        for kind in sorted(steps, reverse=i % 2 == 0):
            began = perf_counter()
            steps[kind]()
            seconds[kind].append(perf_counter() - began)
    tokens = sequences * shape.context_length
    ratio = median(a / b for a, b in zip(seconds["standard"], seconds["mup"], strict=True))
    speeds = {kind: tokens / median(times) for kind, times in seconds.items()}
    return {"width": width, "tokens_a_step": tokens, **speeds, "ratio": ratio}


class _Step:
    """One training step: loss, gradients, clipping, update."""

    def __init__(self, kind: str, shape: Shape, sequences: int) -> None:
        parametrisation = parametrisation_of(kind, Recipe(base_width=32), shape)
        self._learner = Learner(
            shape, seed=0, precision="bf16", lanes=Lanes(1), kernels=load_kernels(), parametrisation=parametrisation
        )
        self._samples = torch.randint(0, 1024, (sequences, 257), generator=torch.Generator().manual_seed(0))
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        self._learner.gradients([lambda: self._samples], self._samples[:, 1:].numel())
        self._learner.update(self._learner.norm(), 1e-4, self._count)


if __name__ == "__main__":
    main()
