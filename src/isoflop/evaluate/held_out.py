"""Loss on the held-out documents, which no model of the family trains on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from isoflop.data import TokenStream, load_manifest
from isoflop.model import Lanes, Weights, load_kernels, make_model

MOST_TOKENS_AT_ONCE = 4_096  # on each lane


@dataclass(frozen=True)
class HeldOutLoss:
    """Nats per token and bits per byte of original text, over all `tokens` held-out tokens."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


def held_out_loss(weights: Weights, data: Path, precision: Literal["bf16", "fp32"], lanes: Lanes) -> HeldOutLoss:
    """Every held-out token is foretold exactly once, in windows of the context length side by side.

    The first token of the split follows the end-of-text token alone; the first target of every window follows the
    window's first token, which was the last target of the window before, and sees no more.
    """
    manifest = load_manifest(data)
    counts = manifest.split("held_out")
    length = weights.shape.context_length
    stream = TokenStream(data, "held_out")
    model = make_model(weights.shape, precision, load_kernels())
    image = model.image(weights)

    def summed(samples: npt.NDArray[np.int64]) -> float:
        return float(model.nats(weights, image, torch.from_numpy(samples)).double().sum())

    whole = stream.n_samples(length)
    at_once = max(1, MOST_TOKENS_AT_ONCE // length)
    first_token = stream.sample(0, 1)[:1]
    sums = [summed(np.array([[manifest.tokenizer.end_of_text, *first_token]]))]
    windows = range(0, whole, at_once)
    sums += lanes.map(lambda first: summed(stream.batch(range(first, min(first + at_once, whole)), length)), windows)
    rest = stream.batch(range(whole * length, stream.n_tokens - 1), 1)
    if len(rest):
        sums.append(summed(np.append(rest[:, 0], rest[-1, 1])[None]))
    total = math.fsum(sums)
    return HeldOutLoss(
        nats_per_token=total / counts.tokens,
        bits_per_byte=total / math.log(2) / counts.bytes,
        tokens=counts.tokens,
        bytes=counts.bytes,
    )
