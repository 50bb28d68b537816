"""muP holds over widths: activations keep their size and the best learning rate stays; without it neither does."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
import zstandard
from torch import Tensor

from isoflop.config.family import Recipe
from isoflop.model import GPT, Lanes, load_kernels
from isoflop.recipe import Parametrisation, Shape, learning_rate
from isoflop.recipe.parametrisation import parametrisation_of
from isoflop.train.learner import Learner

CORPUS = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"
CONTEXT = 32


@pytest.fixture(scope="module")
def text() -> Tensor:
    """Two million bytes of the pocket corpus, a token each."""
    with zstandard.open(CORPUS, "rb") as file:
        lines = io.TextIOWrapper(file, encoding="utf-8")
        found = "".join(json.loads(next(lines))["text"] for _ in range(600))
    return torch.tensor(list(found.encode()[:2_000_000]))


@pytest.fixture(scope="module")
def lanes() -> Iterator[Lanes]:
    """Two, for models side by side: each computes on the one that it is on."""
    with Lanes(2) as lanes:
        yield lanes


class Run:
    """A model in training: two layers, a token a byte, real text in an order of the seed."""

    def __init__(self, text: Tensor, shape: Shape, parametrisation: Parametrisation, sequences: int, seed: int) -> None:
        self._learner = Learner(
            shape,
            seed=seed,
            precision="bf16",
            lanes=Lanes(1),
            kernels=load_kernels(),
            parametrisation=parametrisation,
        )
        self._model = GPT(shape, "fp32", parametrisation)
        self._shape, self._scale = shape, parametrisation.attention_scale(shape)
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
        loss = self._learner.gradients([lambda: samples], samples[:, 1:].numel())
        self._learner.update(self._learner.norm(), lr, self._steps)
        return loss

    @torch.no_grad()
    def activations(self, ids: Tensor) -> list[Tensor]:
        """In fp32: the residual stream after the embeddings and after each layer, and the logits."""
        weights = self._learner.weights
        return [*self._model.residual_stream(weights, ids), self._model.logits(weights, ids)]

    @torch.no_grad()
    def scores(self, ids: Tensor) -> Tensor:
        """Of both layers, what attention's softmax is given: q k^T times its scale, (layers, causal pairs)."""
        weights, shape, found = self._learner.weights, self._shape, []
        for i, x in zip(range(shape.n_layers), self._model.residual_stream(weights, ids), strict=False):
            gain, bias, qkv, qkv_bias, *_ = weights.layer(i)
            h = F.layer_norm(x, (shape.d_model,), gain, bias)
            heads = (h @ qkv + qkv_bias).view(*ids.shape, 3, shape.n_heads, shape.d_head)
            q, k, _ = heads.permute(2, 0, 3, 1, 4)
            causal = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
            found.append((q @ k.transpose(-1, -2) * self._scale)[..., causal].flatten())
        return torch.stack(found)


# Coordinate check: sixteen-fold widths.
WIDTHS = (64, 128, 256, 512, 1024)
STEPS_CHECKED = 10


def sizes(text: Tensor, width: int, parametrisation: Parametrisation) -> Tensor:
    """(11, 5): root mean squares on one probe at the start and after each of ten steps of Adam, without a warm-up.

    Columns: the embeddings' output, each layer's residual output, the logits, and how far these have moved from where
    they started (their change, as Yang et al. 2022, fig. 5, plots it).
    """
    shape = Shape(n_layers=2, d_model=width, n_heads=4, vocab_size=256, context_length=CONTEXT)
    run = Run(text, shape, parametrisation, sequences=8, seed=0)
    probe = run.batch()[:2, :-1]
    first = run.activations(probe)[-1]
    rows = []
    for i in range(STEPS_CHECKED + 1):
        seen = run.activations(probe)
        rows.append([float(one.square().mean().sqrt()) for one in (*seen, seen[-1] - first)])
        if i < STEPS_CHECKED:
            run.step(6e-3)
    return torch.tensor(rows)


def spread(lanes: Lanes, text: Tensor, kinds: Mapping[int, Parametrisation]) -> tuple[Tensor, Tensor, Tensor]:
    """Largest size over smallest among the widths: of the stream (11, 3), the logits (11), their change (10)."""
    # The widest first: it takes as long as all others.
    found = torch.stack(lanes.map(lambda one: sizes(text, *one), sorted(kinds.items(), reverse=True)))
    ratio = found.amax(0) / found.amin(0)
    return ratio[:, :3], ratio[:, 3], ratio[1:, 4]


def kinds_of(parametrisation: str, widths: Sequence[int], **changed: float) -> dict[int, Parametrisation]:
    """At a base width of 32, with the published base values."""
    return {
        width: replace(
            parametrisation_of(parametrisation, Recipe(base_width=32), Shape(2, width, 4, 256, CONTEXT)),  # type: ignore[arg-type]
            **changed,  # type: ignore[arg-type]
        )
        for width in widths
    }


def test_activations_keep_their_size_over_sixteen_fold_widths(lanes: Lanes, text: Tensor) -> None:
    """What must keep its size is what the limit of infinite width fixes.

    That is the stream at any time and the logits' change from the first update on. The logits themselves start as
    random embeddings over m, which shrinks as 1 / sqrt(width); only once training has outweighed that start do they
    keep their size too (Yang et al. 2022, app. D.2; microsoft/mup, README: "Coord Check"). Below width 64 that start
    still shapes the first update: at 32 it moves the logits 1.9 times as far as at 256.
    """
    stream, logits, change = spread(lanes, text, kinds_of("mup", WIDTHS))
    print("stream", stream.amax(0), "change of the logits", change, "logits", logits)
    assert float(stream.max()) < 1.5
    assert float(change.max()) < 1.5
    assert float(logits[-1]) < 1.5


# Two of the widths are enough to show that over all of them the factor is passed.
@pytest.mark.parametrize(
    "kinds",
    [
        kinds_of("standard", WIDTHS[::3]),
        kinds_of("mup", WIDTHS[::3], hidden_lr_multiplier=1.0),
        kinds_of("mup", WIDTHS[::3], hidden_init_std=0.08),
        kinds_of("mup", WIDTHS[::3], output_multiplier=1.0),
    ],
    ids=["standard", "without its rates", "without its initialisation", "without its output multiplier"],
)
def test_without_mup_or_a_part_of_it_they_do_not(lanes: Lanes, text: Tensor, kinds: dict[int, Parametrisation]) -> None:
    stream, _, change = spread(lanes, text, kinds)
    print("stream", stream.amax(0), "change of the logits", change)
    assert max(float(stream.max()), float(change.max())) > 1.5


# Attention's scores: three seeds, as one alone moves their change by half; seen after steps 4 and 7.
SCORE_WIDTHS, SCORE_SEEDS, SCORES_SEEN = (128, 256, 512, 1024), 3, (4, 7)


def scores_moved(text: Tensor, width: int, parametrisation: Parametrisation, seed: int) -> Tensor:
    """(2, 2): how far the scores of each layer (columns) have moved on a probe after the steps SCORES_SEEN."""
    shape = Shape(n_layers=2, d_model=width, n_heads=4, vocab_size=256, context_length=CONTEXT)
    run = Run(text, shape, parametrisation, sequences=8, seed=seed)
    probe = text[-8 * CONTEXT :].view(8, CONTEXT)
    first, moved = run.scores(probe), []
    for step in range(1, max(SCORES_SEEN) + 1):
        run.step(6e-3)
        if step in SCORES_SEEN:
            moved.append((run.scores(probe) - first).square().mean(1).sqrt())
    return torch.stack(moved)


def spread_of_scores(lanes: Lanes, text: Tensor, kinds: Mapping[int, Parametrisation]) -> Tensor:
    """(2, 2): largest move over smallest among the widths, the seeds together, by step and layer."""
    tasks = [(width, kind, seed) for width, kind in sorted(kinds.items(), reverse=True) for seed in range(SCORE_SEEDS)]
    found = torch.stack(lanes.map(lambda one: scores_moved(text, *one), tasks))
    moved = found.view(len(kinds), SCORE_SEEDS, *found.shape[1:]).square().mean(1).sqrt()
    return moved.amax(0) / moved.amin(0)


def test_attention_scores_move_as_far_at_every_width(lanes: Lanes, text: Tensor) -> None:
    """Updates make queries and keys alike, so q k grows with d_head; 1 / d_head keeps what softmax is given in size.

    At the start q k is random and vanishes as 1 / sqrt(d_head), which is meant (Yang et al. 2022, sec. 4); from the
    fourth step on that is outweighed, but for widths below 128.
    """
    spread = spread_of_scores(lanes, text, kinds_of("mup", SCORE_WIDTHS))
    print("spread of the scores' change by step and layer", spread)
    assert float(spread.max()) < 1.5


def test_attention_over_the_square_root_of_d_head_is_told_by_its_scores(lanes: Lanes, text: Tensor) -> None:
    spread = spread_of_scores(lanes, text, kinds_of("mup", SCORE_WIDTHS[:3], attention_exponent=0.5))
    print("spread of the scores' change by step and layer", spread)
    assert float(spread.min()) > 1.5


# Transfer: eight-fold widths, and the exponents of the rates tried at each, a grid of factors of two around the best.
MUP_RATES = dict.fromkeys((16, 32, 64, 128), range(-7, -3))
STANDARD_RATES = {32: range(-9, -6), 256: range(-12, -8)}
STEPS = 60


@pytest.fixture(scope="module")
def letters(text: Tensor) -> Tensor:
    """The same text in 27 tokens, a to z and one for all between: of it even small models soon learn something."""
    lower = bytes(text.tolist()).lower()
    spelled = [byte - 96 if 97 <= byte <= 122 else 0 for byte in lower]
    return torch.tensor([one for before, one in zip([0, *spelled], spelled, strict=False) if one or before])


def best_rates(lanes: Lanes, letters: Tensor, parametrisation: str, rates: Mapping[int, range]) -> list[float]:
    """The exponent of the best rate of each width, between those tried: the lowest point of a parabola around it."""
    recipe = Recipe(base_width=16, embedding_multiplier=1.0)

    def loss(task: tuple[int, int]) -> float:
        width, k = task
        shape = Shape(n_layers=2, d_model=width, n_heads=2, vocab_size=27, context_length=CONTEXT)
        made = parametrisation_of(parametrisation, recipe, shape)  # type: ignore[arg-type]
        return final_loss(Run(letters, shape, made, sequences=16, seed=0), 2.0**k)

    tasks = [(width, k) for width in sorted(rates, reverse=True) for k in rates[width]]
    losses = dict(zip(tasks, lanes.map(loss, tasks), strict=True))
    return [_lowest([losses[width, k] for k in tried], tried) for width, tried in rates.items()]


def _lowest(losses: list[float], exponents: range) -> float:
    i = min(range(1, len(losses) - 1), key=lambda i: losses[i])
    assert min(losses) == losses[i], f"the best rate is at the edge of {losses}"
    left, middle, right = losses[i - 1 : i + 2]
    return exponents[i] + (left - right) / (2 * (left - 2 * middle + right))


def final_loss(run: Run, peak_lr: float) -> float:
    """The mean of the last twenty steps of a whole schedule."""
    schedule = {"tokens": STEPS, "warmup_tokens": STEPS // 5, "peak_lr": peak_lr, "final_lr_fraction": 0.1}
    losses = [run.step(learning_rate(i + 1, **schedule, decay="linear")) for i in range(STEPS)]  # type: ignore[arg-type]
    return fmean(losses[-20:])


def test_the_best_rate_moves_by_at_most_a_factor_of_two_under_mup_and_by_more_without(
    lanes: Lanes, letters: Tensor
) -> None:
    mup = best_rates(lanes, letters, "mup", MUP_RATES)
    standard = best_rates(lanes, letters, "standard", STANDARD_RATES)
    print("best exponents: mup", mup, "standard", standard)
    assert max(mup) - min(mup) <= 1
    assert standard[0] - standard[1] > 1
