"""Greedy continuations of prompts, many at once: prompts of like length together, padded on the left."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from isoflop.evaluate.scoring import CPU_BATCH_TOKENS
from isoflop.model import Kept, Reader

MOST_AT_ONCE = 64


def write(
    model: Reader, prompts: Sequence[Sequence[int]], most: int, stops: Callable[[list[int]], bool]
) -> list[list[int]]:
    """The tokens that follow each prompt, at most `most`; a prompt is done when `stops` says so of its tokens.

    A prompt loses its beginning where the model's context would not hold it and what is written.

    Raises:
        ValueError: `most` leaves no token of the context to a prompt, or a prompt is empty.
    """
    room = model.shape.context_length - most
    if room < 1 or not all(prompts):
        raise ValueError(f"no room for a prompt: {most} tokens to write in {model.shape.context_length}")
    cut = [list(prompt[-room:]) for prompt in prompts]
    order = sorted(range(len(cut)), key=lambda i: -len(cut[i]))
    written: list[list[int]] = [[] for _ in cut]
    while order:
        count = max(1, min(MOST_AT_ONCE, CPU_BATCH_TOKENS // len(cut[order[0]])))
        for i, tokens in zip(order, _write_batch(model, [cut[i] for i in order[:count]], most, stops), strict=False):
            written[i] = tokens
        order = order[count:]
    return written


def _write_batch(
    model: Reader, prompts: list[list[int]], most: int, stops: Callable[[list[int]], bool]
) -> list[list[int]]:
    device, width = model.device, max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)  # (B, T)
    pads = torch.tensor([width - len(prompt) for prompt in prompts], device=device)[:, None]  # (B, 1)
    kept = Kept()
    written: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    places = torch.arange(width, device=device)[None]  # (1, T)
    for _ in range(most):
        x = model.features(ids, (places - pads).clamp(min=0), _mask(places, pads), kept)
        chosen = model.logits(x[:, -1]).argmax(-1)
        for row in list(open_rows):
            written[row].append(int(chosen[row]))
            if stops(written[row]):
                open_rows.discard(row)
        if not open_rows:
            break
        ids = chosen[:, None]
        places = places[:, -1:] + 1
    return written


def _mask(places: Tensor, pads: Tensor) -> Tensor:
    """Who attends to whom, bool (B, 1, T, S): to what is no padding and not later; padding to itself, for no NaN."""
    seen = torch.arange(int(places[0, -1]) + 1, device=places.device)  # (S,)
    not_later = seen[None, :] <= places[0][:, None]  # (T, S)
    mask = not_later[None] & (seen[None, None, :] >= pads[:, :, None])
    return (mask | (seen[None, :] == places[0][:, None])[None])[:, None]
