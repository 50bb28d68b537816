"""Reading without gradients is the same model: alone, with a mask, and token by token."""

import torch

from isoflop.model import GPT, Kept, Reader, Weights, initialise
from isoflop.recipe import Shape

SHAPE = Shape(n_layers=2, d_model=16, n_heads=2, vocab_size=50, context_length=12)
IDS = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))


def weights() -> Weights:
    """Far from what an initialisation gives."""
    made = initialise(SHAPE, 0)
    for tensor in made.values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)), alpha=0.3)
    return made


def test_the_logits_are_those_of_the_model_that_trains() -> None:
    made = weights()
    reader = Reader(made, SHAPE)

    ours = reader.logits(reader.features(IDS).flatten(0, 1))

    torch.testing.assert_close(ours, GPT(SHAPE, "fp32").logits(made, IDS).flatten(0, 1))


def test_a_mask_that_hides_the_future_changes_nothing() -> None:
    reader = Reader(weights(), SHAPE)
    causal = torch.ones(12, 12, dtype=torch.bool).tril()[None, None].expand(3, 1, 12, 12)

    torch.testing.assert_close(reader.features(IDS, mask=causal), reader.features(IDS))


def test_reading_on_from_what_was_kept_is_reading_it_all() -> None:
    reader, kept = Reader(weights(), SHAPE), Kept()
    whole = reader.features(IDS)

    for begin, end in ((0, 5), (5, 6), (6, 12)):
        positions = torch.arange(begin, end)[None].expand(3, -1)
        mask = (torch.arange(end)[None] <= torch.arange(begin, end)[:, None])[None, None]
        x = reader.features(IDS[:, begin:end], positions, mask, kept)
        torch.testing.assert_close(x, whole[:, begin:end])


def test_bf16_is_near() -> None:
    made = weights()
    x, y = (Reader(made, SHAPE, dtype).features(IDS).float() for dtype in (torch.float32, torch.bfloat16))

    assert 0 < float((x - y).abs().max()) < 0.1
