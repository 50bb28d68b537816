"""Loss on the held-out documents, which no model of the family trains on."""

import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from isoflop.data import DocumentIndex, Manifest, TokenStream, load_manifest
from isoflop.model import Lanes, Weights, load_kernels, make_model, mapped
from isoflop.train.allocator import give_back_freed_memory

CPU = torch.device("cpu")
MOST_TOKENS_AT_ONCE, MOST_ON_GPU = 4_096, 65_536  # on each lane; a GPU would wait for the host's next request


@dataclass(frozen=True)
class DomainLoss:
    """The same over the held-out documents of one domain."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class HeldOutLoss:
    """Nats per token and bits per byte of original text, over all `tokens` held-out tokens, and by domain."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int
    domains: dict[str, DomainLoss]


def held_out_loss(
    weights: Weights,
    data: Path,
    precision: Literal["bf16", "fp32"],
    lanes: Lanes,
    device: torch.device = CPU,
    scratch: Path | None = None,
    microbatch: int = MOST_TOKENS_AT_ONCE,
) -> HeldOutLoss:
    """Every held-out token is foretold exactly once, in windows of the context length side by side.

    The first token of the split follows the end-of-text token alone; the first target of every window follows the
    window's first token, which was the last target of the window before, and sees no more. With `scratch` a processor
    has the weights in compute precision in a file in that folder, not in memory; its lanes read so many tokens of a
    `microbatch` at once, and no more than one window where that is longer. Neither changes a bit.

    Raises:
        WorkError: the tokens have changed or cannot be read; the disk is full.
    """
    manifest = load_manifest(data)
    counts = manifest.split("held_out")
    length = weights.shape.context_length
    stream = TokenStream(data, "held_out")
    model = make_model(weights.shape, precision, load_kernels() if device.type == "cpu" else None)
    weights = Weights(weights.shape, weights.flat.to(device))
    if scratch is None or device.type != "cpu":
        image = model.image(weights)
    else:
        image = _image_in(scratch, weights, model.dtype)

    by_token = np.empty(counts.tokens)  # 8 bytes a token: the held-out side is small

    def summed(place: int, samples: npt.NDArray[np.int64]) -> float:
        """The nats of all targets of the samples, which are the split's tokens from `place` on."""
        parts = torch.split(torch.from_numpy(samples).to(device), rows)
        nats = torch.cat([model.nats(weights, image, part) for part in parts]).double().cpu()
        by_token[place : place + nats.numel()] = nats.flatten().numpy()
        return float(nats.sum())

    def of_windows(first: int) -> float:
        return summed(1 + first * length, stream.batch(range(first, min(first + at_once, whole)), length))

    whole = stream.n_samples(length)
    at_once = max(1, (MOST_ON_GPU if device.type == "cuda" else MOST_TOKENS_AT_ONCE) // length)
    rows = at_once if device.type == "cuda" else max(1, min(microbatch, MOST_TOKENS_AT_ONCE) // length)
    first_token = stream.sample(0, 1)[:1]
    sums = [summed(0, np.array([[manifest.tokenizer.end_of_text, *first_token]]))]
    sums += lanes.map(of_windows, range(0, whole, at_once))
    rest = stream.batch(range(whole * length, stream.n_tokens - 1), 1)
    if len(rest):
        sums.append(summed(1 + whole * length, np.append(rest[:, 0], rest[-1, 1])[None]))
    total = math.fsum(sums)
    return HeldOutLoss(
        nats_per_token=total / counts.tokens,
        bits_per_byte=total / math.log(2) / counts.bytes,
        tokens=counts.tokens,
        bytes=counts.bytes,
        domains=_by_domain(data, manifest, by_token),
    )


def _image_in(scratch: Path, weights: Weights, dtype: torch.dtype) -> Weights:
    """As `Passes.image`, for which there may be no memory; what training held goes back to the system first."""
    gc.collect()  # a learner and what works for it know each other
    give_back_freed_memory()
    if dtype == weights.flat.dtype:
        return weights
    flat = mapped(scratch, weights.flat.numel(), dtype)
    return Weights(weights.shape, flat.copy_(weights.flat))


def _by_domain(data: Path, manifest: Manifest, by_token: npt.NDArray[np.float64]) -> dict[str, DomainLoss]:
    """The nats of all held-out tokens, in order, added up by their documents' domains."""
    names, numbers, sizes = DocumentIndex(data, "held_out").domains()
    nats = np.bincount(np.repeat(numbers, sizes), weights=by_token, minlength=len(names))
    losses = {}
    for name, counts in manifest.split("held_out").domains.items():
        total = float(nats[names.index(name)])
        losses[name] = DomainLoss(
            nats_per_token=total / max(1, counts.tokens),
            bits_per_byte=total / math.log(2) / max(1, counts.bytes),
            tokens=counts.tokens,
            bytes=counts.bytes,
        )
    return losses
