"""Packed rows with shared contexts give what reading each request alone gives."""

import random
from typing import Any

import pytest
import torch

from isoflop.evaluate import scoring
from isoflop.evaluate.scoring import Request, Scorer
from isoflop.evaluate.writing import write
from isoflop.model import GPT, Lanes, Reader, Weights, initialise
from isoflop.recipe import Shape

CONTEXT = 24
ENDS = set(range(0, 50, 7))
SHAPE = Shape(n_layers=2, d_model=16, n_heads=2, vocab_size=50, context_length=CONTEXT)


@pytest.fixture(scope="module")
def weights() -> Weights:
    made = initialise(SHAPE, 0)
    for tensor in made.values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)), alpha=0.3)
    return made


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(50) for _ in range(count)]


def requests() -> list[Request]:
    """Contexts short, long and too long, with one to five continuations of one token to a whole context."""
    rng = random.Random(1)
    found: list[Request] = []
    for _ in range(40):
        context = tokens(rng, rng.randint(1, 2 * CONTEXT))
        found += [(context, tokens(rng, rng.choice([1, 1, 2, 5, CONTEXT]))) for _ in range(rng.randint(1, 5))]
    rng.shuffle(found)
    return found


def alone(weights: Weights, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """By definition: the last tokens that the context holds, read by the model that trains."""
    whole = (context + continuation)[-(CONTEXT + 1) :]
    logs = GPT(SHAPE, "fp32").logits(weights, torch.tensor([whole[:-1]]))[0].log_softmax(-1)[-len(continuation) :]
    wanted = torch.tensor(continuation)
    return float(logs.gather(1, wanted[:, None]).sum()), bool((logs.argmax(-1) == wanted).all())


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_request_has_the_likelihood_it_has_alone(weights: Weights, lanes: int) -> None:
    asked = requests()

    with Lanes(lanes) as running:
        said = Scorer(Reader(weights, SHAPE), running).score(asked)

    for (context, continuation), one in zip(asked, said, strict=True):
        log, greedy = alone(weights, list(context), list(continuation))
        assert one.log == pytest.approx(log, abs=1e-4)
        assert one.greedy == greedy


def test_greedy_is_told_of_what_greedy_decoding_writes(weights: Weights) -> None:
    reader = Reader(weights, SHAPE)
    prompt = [3, 1, 4]
    (written,) = write(reader, [prompt], 6, lambda tokens: False)
    other = [*written[:-1], (written[-1] + 1) % 50]

    said = Scorer(reader, Lanes(1)).score([(prompt, written), (prompt, other)])

    assert [one.greedy for one in said] == [True, False]


def test_choices_of_one_token_cost_one_reading_of_their_question(weights: Weights) -> None:
    question = list(range(10))
    asked: list[Request] = [(question, [choice]) for choice in range(30)]

    (row,) = scoring._rows(asked, CONTEXT)

    assert row.length == len(question)


def test_a_continuation_longer_than_the_context_is_read_piece_by_piece(weights: Weights) -> None:
    rng = random.Random(2)
    context, continuation = tokens(rng, 5), tokens(rng, 2 * CONTEXT + 3)

    (said,) = Scorer(Reader(weights, SHAPE), Lanes(1)).score([(context, continuation)])

    whole, expected = context + continuation, 0.0
    for start in range(0, len(continuation), CONTEXT):
        part = continuation[start : start + CONTEXT]
        expected += alone(weights, whole[: 5 + start], part)[0]
    assert said.log == pytest.approx(expected, abs=1e-3)


def test_what_memory_cannot_hold_is_read_in_smaller_batches(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests()
    expected = Scorer(Reader(weights, SHAPE), Lanes(1)).score(asked)
    features = Reader.features

    def small(self: Reader, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if ids.numel() > 300:
            raise torch.OutOfMemoryError("no more than 300 tokens")
        return features(self, ids, *more)

    monkeypatch.setattr(Reader, "features", small)
    scorer, done = Scorer(Reader(weights, SHAPE), Lanes(1)), []
    said = scorer.score(asked, done.append)

    assert [one.log for one in said] == pytest.approx([one.log for one in expected], abs=1e-4)
    assert scorer.batch_tokens <= 512  # found by itself, and kept
    assert sum(done) == len(asked)


def test_a_row_that_memory_cannot_hold_is_a_fault(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("nothing at all")

    monkeypatch.setattr(Reader, "features", none)

    with pytest.raises(torch.OutOfMemoryError):
        Scorer(Reader(weights, SHAPE), Lanes(1)).score([([1, 2], [3])])


def test_what_is_written_is_greedy_token_by_token(weights: Weights) -> None:
    rng = random.Random(3)
    prompts = [tokens(rng, rng.randint(1, 40)) for _ in range(20)]
    most = 6

    written = write(Reader(weights, SHAPE), prompts, most, lambda tokens: tokens[-1] in ENDS)

    stopped = 0
    for prompt, said in zip(prompts, written, strict=True):
        seen, expected = prompt[-(CONTEXT - most) :], list[int]()
        while len(expected) < most and not ENDS.intersection(expected):
            logits = GPT(SHAPE, "fp32").logits(weights, torch.tensor([seen + expected]))
            expected.append(int(logits[0, -1].argmax()))
        stopped += len(expected) < most
        assert said == expected
    assert 0 < stopped < len(prompts)


def test_writing_more_than_the_context_holds_is_refused(weights: Weights) -> None:
    with pytest.raises(ValueError, match="no room"):
        write(Reader(weights, SHAPE), [[1]], CONTEXT, lambda tokens: False)
