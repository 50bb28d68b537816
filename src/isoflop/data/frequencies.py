"""The loss of knowing nothing but how often each token occurs."""

from pathlib import Path

import numpy as np

from isoflop.data.manifest import load_manifest
from isoflop.data.shards import TokenStream

# Frequencies of a vocabulary of 50,257 are known to a per cent of the loss from far fewer.
MOST_TOKENS = 2**24
_PIECE = 2**10
_PLACES = 16


def frequency_loss(folder: Path) -> float:
    """Nats per held-out token of guessing each by its frequency among the training tokens.

    What a model without any training compute could reach: the ceiling of a scaling law. Of a split of more than 2^24
    tokens that many are counted, in 16 places spread over it; each token of the vocabulary is counted once more.

    Raises:
        WorkError: a shard has changed or cannot be read.
    """
    vocab_size = load_manifest(folder).tokenizer.vocab_size
    seen = 1 + np.bincount(_spread(TokenStream(folder, "train")), minlength=vocab_size)
    held_out = np.bincount(_spread(TokenStream(folder, "held_out")), minlength=vocab_size)
    return float(-(held_out @ np.log(seen / seen.sum())) / held_out.sum())


def _spread(stream: TokenStream) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    pieces = stream.n_samples(_PIECE)
    if pieces == 0:
        return stream.batch(range(stream.n_samples(1)), 1)[:, 1]
    # Few places: a shard is checked whole before the first of its tokens is given out.
    here = min(pieces, MOST_TOKENS // _PIECE) // _PLACES + 1
    starts = np.linspace(0, max(0, pieces - here), _PLACES).astype(np.int64)
    numbers = np.unique(starts[:, None] + np.arange(here))
    return stream.batch(numbers[numbers < pieces], _PIECE)[:, 1:].ravel()
