"""muP holds over widths: activations keep their size and the best learning rate stays; without it neither does."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
import zstandard
from isoflop.train.gradients import FixedSums
from torch import Tensor

from isoflop.config.family import Recipe
from isoflop.model import GPT, Lanes, initialise, load_kernels, make_model
from isoflop.recipe import Parametrisation, Shape, learning_rate
from isoflop.recipe.parametrisation import parametrisation_of
from isoflop.train.optimizer import AdamW

CORPUS = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"
CONTEXT = 32


@pytest.fixture(scope="module")
def text() -> Tensor:
    """Two million bytes of the pocket corpus, a token each."""
    with zstandard.open(CORPUS, "rb") as file:
        lines = io.TextIOWrapper(file, encoding="utf-8")
        found = "".join(json.loads(next(lines))["text"] for _ in range(600))
    return torch.tensor(list(found.encode()[:2_000_000]))


class Run:
    """A model in training: fp32, two layers, a token a byte, real text in an order of the seed."""

    def __init__(self, text: Tensor, shape: Shape, parametrisation: Parametrisation, sequences: int, seed: int) -> None:
        kernels = load_kernels()
        self.weights = initialise(shape, seed, parametrisation)
        self.model = GPT(shape, "fp32", parametrisation)
        self._trained = make_model(shape, "fp32", kernels, parametrisation)
        self._sums = FixedSums(shape, kernels)
        self._optimizer = AdamW(
            shape,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
            lanes=Lanes(1),
            kernels=kernels,
            hidden_lr_multiplier=parametrisation.hidden_lr_multiplier,
        )
        self._text, self._sequences = text, sequences
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = 0

    def batch(self) -> Tensor:
        """The next samples, (sequences, context + 1)."""
        starts = torch.randint(0, len(self._text) - CONTEXT - 1, (self._sequences,), generator=self._generator)
        return torch.stack([self._text[start : start + CONTEXT + 1] for start in starts])

    def step(self, lr: float) -> float:
        """One update at rate `lr`; the mean loss before it."""
        self._steps += 1
        samples = self.batch()
        self._sums.begin(samples[:, 1:].numel())
        nats = self._trained.gradients(self.weights, self.weights, samples, self._sums)
        norm = self._optimizer.norm(self._sums.sums)
        self._optimizer.update(self.weights, self.weights, self._sums.sums, norm, lr, self._steps)
        return nats / samples[:, 1:].numel()


# Coordinate check: sixteen-fold widths.
WIDTHS = (32, 64, 128, 256, 512)


def sizes(text: Tensor, width: int, parametrisation: Parametrisation, seed: int) -> Tensor:
    """(11 steps, embeddings, layers and logits): root mean squares on one probe before ten steps and after.

    Of the residual stream; of the logits how far they moved since the start, as what they start from is meant to vanish
    with the width. Adam at the published rate, without a warm-up.
    """
    shape = Shape(n_layers=2, d_model=width, n_heads=4, vocab_size=256, context_length=CONTEXT)
    run = Run(text, shape, parametrisation, sequences=8, seed=seed)
    probe = run.batch()[:, :-1]
    rows = []
    with torch.no_grad():
        first = run.model.logits(run.weights, probe)
    for _ in range(11):
        with torch.no_grad():
            seen = [*run.model.residual_stream(run.weights, probe), run.model.logits(run.weights, probe) - first]
            rows.append([float(one.square().mean().sqrt()) for one in seen])
        run.step(6e-3)
    return torch.tensor(rows)


def spread(text: Tensor, kinds: Sequence[Parametrisation], seeds: int) -> Tensor:
    """Largest over smallest size among the widths, each the mean of `seeds` seeds."""
    means = [
        torch.stack([sizes(text, width, kind, seed) for seed in range(seeds)]).mean(0)
        for width, kind in zip(WIDTHS, kinds, strict=True)
    ]
    return torch.stack(means).amax(0) / torch.stack(means).amin(0)


def kinds_of(parametrisation: str, **changed: float) -> list[Parametrisation]:
    shapes = [Shape(2, width, 4, 256, CONTEXT) for width in WIDTHS]
    made = [parametrisation_of(parametrisation, Recipe(base_width=32), shape) for shape in shapes]  # type: ignore[arg-type]
    return [replace(one, **changed) for one in made]  # type: ignore[arg-type]


def test_activations_keep_their_size_over_sixteen_fold_widths(text: Tensor) -> None:
    found = spread(text, kinds_of("mup"), seeds=2)
    stream, logits = found[:, :-1], found[3:, -1]
    print("stream", stream.amax(0), "logits", found[:, -1])
    assert float(stream.max()) < 1.5
    assert float(logits.max()) < 1.5


@pytest.mark.parametrize(
    "kinds",
    [kinds_of("standard"), kinds_of("mup", hidden_lr_multiplier=1.0), kinds_of("mup", hidden_init_std=0.08)],
    ids=["standard", "mup without its rates", "mup without its initialisation"],
)
def test_without_mup_or_half_of_it_they_do_not(text: Tensor, kinds: list[Parametrisation]) -> None:
    found = spread(text, kinds, seeds=1)[:, :-1]
    print(found.amax(0))
    assert float(found.max()) > 1.5


# Transfer: eight-fold widths, and the exponents of the rates tried at each, a grid of factors of two around the best.
MUP_RATES = dict.fromkeys((16, 32, 64, 128), range(-7, -3))
STANDARD_RATES = {32: range(-9, -6), 256: range(-11, -8)}
STEPS = 100


@pytest.fixture(scope="module")
def letters(text: Tensor) -> Tensor:
    """The same text in 27 tokens, a to z and one for all between: of it even small models soon learn something."""
    lower = bytes(text.tolist()).lower()
    spelled = [byte - 96 if 97 <= byte <= 122 else 0 for byte in lower]
    return torch.tensor([one for before, one in zip([0, *spelled], spelled, strict=False) if one or before])


def best_rate(letters: Tensor, parametrisation: str, width: int, rates: range) -> float:
    """The exponent of the best rate, between those tried: the lowest point of a parabola through the three lowest."""
    shape = Shape(n_layers=2, d_model=width, n_heads=2, vocab_size=27, context_length=CONTEXT)
    recipe = Recipe(base_width=16, embedding_multiplier=1.0)
    made = parametrisation_of(parametrisation, recipe, shape)  # type: ignore[arg-type]
    losses = [final_loss(Run(letters, shape, made, sequences=16, seed=0), 2.0**k) for k in rates]
    i = min(range(1, len(losses) - 1), key=lambda i: losses[i])
    assert min(losses) == losses[i], f"{parametrisation}, width {width}: the best rate is at the edge of {losses}"
    left, middle, right = losses[i - 1 : i + 2]
    return rates[i] + (left - right) / (2 * (left - 2 * middle + right))


def final_loss(run: Run, peak_lr: float) -> float:
    """The mean of the last twenty steps of a whole schedule."""
    schedule = {"tokens": STEPS, "warmup_tokens": STEPS // 5, "peak_lr": peak_lr, "final_lr_fraction": 0.1}
    losses = [run.step(learning_rate(i + 1, **schedule, decay="linear")) for i in range(STEPS)]  # type: ignore[arg-type]
    return fmean(losses[-20:])


def test_the_best_rate_moves_by_at_most_a_factor_of_two_under_mup_and_by_more_without(letters: Tensor) -> None:
    mup = [best_rate(letters, "mup", width, rates) for width, rates in MUP_RATES.items()]
    standard = [best_rate(letters, "standard", width, rates) for width, rates in STANDARD_RATES.items()]
    print("best exponents: mup", mup, "standard", standard)
    assert max(mup) - min(mup) <= 1
    assert standard[0] - standard[1] > 1
