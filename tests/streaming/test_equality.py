"""Streamed training gives the bits of resident training: every loss, every norm, every weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from isoflop.model import Lanes, Shard, load_kernels, weights_sha256
from isoflop.recipe import STANDARD, Parametrisation, Shape
from isoflop.recipe.streaming import Cut
from isoflop.systems.group import ALONE, Systems
from isoflop.train.learner import Learner, Learns
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner
from tests.systems.test_group import on_threads

SHAPES = {
    "tiny": Shape(n_layers=2, d_model=16, n_heads=2, vocab_size=300, context_length=32),
    "one layer": Shape(n_layers=1, d_model=24, n_heads=3, vocab_size=257, context_length=17),
    "odd": Shape(n_layers=3, d_model=40, n_heads=2, vocab_size=321, context_length=130),
}
MUP = Parametrisation(embedding_multiplier=3.0, output_multiplier=0.7, attention_exponent=1.0, hidden_lr_multiplier=0.5)
ADAMW = AdamW()


@dataclass(frozen=True)
class Run:
    losses: list[float]
    norms: list[float]
    weights: str


def steps_of(shape: Shape, microbatches: int = 6) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(4)
    size = (2, shape.context_length + 1)
    return [[torch.randint(0, shape.vocab_size, size, generator=generator) for _ in range(microbatches)] for _ in "ab"]


def run(learner: Learns, steps: Sequence[Sequence[Tensor]], tokens: int | None = None) -> Run:
    losses, norms = [], []
    for i, samples in enumerate(steps):
        readers: list[Callable[[], Tensor]] = [lambda one=one: one for one in samples]  # type: ignore[misc]
        losses.append(learner.gradients(readers, tokens or sum(one[:, 1:].numel() for one in samples)))
        norms.append(learner.norm())
        learner.update(norms[-1], 1e-2, i + 1)
        learner.commit({})
    result = Run(losses, norms, weights_sha256(learner.complete()))
    learner.close()
    return result


def resident(shape: Shape, lanes: Lanes, precision: Literal["bf16", "fp32"], fused: bool, mup: bool) -> Learner:
    parametrisation = MUP if mup else STANDARD
    return Learner(
        shape,
        seed=3,
        precision=precision,
        lanes=lanes,
        kernels=load_kernels() if fused else None,
        optimizer=AdamW(hidden_lr_multiplier=parametrisation.hidden_lr_multiplier),
        parametrisation=parametrisation,
    )


def streamed(
    shape: Shape,
    lanes: Lanes,
    precision: Literal["bf16", "fp32"],
    fused: bool,
    mup: bool,
    folder: Path | None,
    most: int = 2,
    systems: Systems = ALONE,
    recompute: bool = False,
    stays: bool = False,
) -> StreamedLearner:
    parametrisation = MUP if mup else STANDARD
    learner = StreamedLearner(
        shape,
        precision=precision,
        lanes=lanes,
        kernels=load_kernels() if fused else None,
        optimizer=AdamW(hidden_lr_multiplier=parametrisation.hidden_lr_multiplier),
        parametrisation=parametrisation,
        systems=systems,
        reproducible=True,
        cut=Cut(sequences=2, microbatches=6, most=most, recompute=recompute, embeddings_stay=stays),
        folder=folder,
        journal=None,
    )
    learner.create(3)
    return learner


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(("fused", "mup"), [(True, True), (False, False)], ids=["kernels mup", "plain standard"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_any_store_and_any_groups_give_the_bits_of_resident_training(
    shape: Shape, precision: Literal["bf16", "fp32"], fused: bool, mup: bool, tmp_path: Path
) -> None:
    steps = steps_of(shape)
    with Lanes(2) as lanes:
        wanted = run(resident(shape, lanes, precision, fused, mup), steps)
        for folder, most in ((None, 1), (None, 6), (tmp_path / "1", 1), (tmp_path / "4", 4)):
            assert run(streamed(shape, lanes, precision, fused, mup, folder, most), steps) == wanted, (folder, most)
        for most in (1, 4):
            learner = streamed(shape, lanes, precision, fused, mup, tmp_path / f"stays {most}", most, stays=True)
            assert run(learner, steps) == wanted, ("embeddings stay", most)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_computed_once_more_give_the_same_bits(precision: Literal["bf16", "fp32"], tmp_path: Path) -> None:
    shape = SHAPES["odd"]
    with Lanes(2) as lanes:
        wanted = run(resident(shape, lanes, precision, fused=True, mup=False), steps_of(shape))
        learner = streamed(shape, lanes, precision, True, False, tmp_path, recompute=True)
        assert run(learner, steps_of(shape)) == wanted


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("store", ["disk", "host", "embeddings stay"])
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_systems_gives_the_bits_of_one(size: int, store: str, tmp_path: Path) -> None:
    shape = SHAPES["odd"]
    steps = steps_of(shape, microbatches=4)  # three systems: one has two microbatches, the others one

    with Lanes(1) as lanes:
        wanted = run(resident(shape, lanes, "bf16", fused=True, mup=False), steps)

    def part(systems: Systems) -> Run:
        with Lanes(1) as lanes:
            folder, stays = None if store == "host" else tmp_path, store == "embeddings stay"
            learner = streamed(shape, lanes, "bf16", True, False, folder, 1, systems, stays=stays)
            return run(learner, [one[systems.rank :: size] for one in steps], tokens=len(steps[0]) * 2 * 130)

    assert on_threads(size, part) == [wanted] * size


@pytest.mark.usefixtures("cut")
def test_every_way_of_training_knows_the_matrices_that_no_gradient_reaches() -> None:
    """The second layer's outputs are given zero weights: what its first matrices compute is not used."""
    shape, names = SHAPES["tiny"], ("attn.c_attn.weight", "mlp.c_fc.weight")
    dead = tuple(f"transformer.h.1.{name}" for name in names)

    def unreached(learner: Learns, systems: Systems = ALONE) -> tuple[str, ...]:
        learner.gradients([lambda one=one: one for one in steps_of(shape)[0][systems.rank :: systems.size]], 6 * 64)  # type: ignore[misc]
        learner.norm()
        found = learner.unreached()
        learner.close()
        return found

    class Killed:
        """A resident learner's state, its second layer killed"""

        def __init__(self, lanes: Lanes) -> None:
            self.learner = resident(shape, lanes, "fp32", fused=True, mup=False)
            for name in ("attn.c_proj.weight", "mlp.c_proj.weight"):
                self.learner.weights[f"transformer.h.1.{name}"].zero_()

        def read(self, shard: Shard) -> dict[str, Tensor]:
            return {name: part.clone() for name, part in self.learner.shard(shard).items()}

    with Lanes(2) as lanes:
        healthy = streamed(shape, lanes, "fp32", True, False, None)
        assert unreached(resident(shape, lanes, "fp32", fused=True, mup=False)) == unreached(healthy) == ()
        assert unreached(Killed(lanes).learner) == dead

    def part(systems: Systems) -> tuple[str, ...]:
        with Lanes(1) as lanes:
            learner = streamed(shape, lanes, "fp32", True, False, None, 2, systems)
            learner.restore(Killed(lanes))  # type: ignore[arg-type]
            return unreached(learner, systems)

    assert on_threads(2, part) == [dead, dead]
