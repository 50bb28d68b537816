"""The loss of knowing nothing but how often each token occurs."""

from pathlib import Path

import numpy as np

from isoflop.data.manifest import load_manifest
from isoflop.data.shards import Tokens, TokenStream

# Frequencies of a vocabulary of 50,257 are known to a per cent of the loss from far fewer.
MOST_TOKENS = 2**24
_PIECE = 2**10
_PLACES = 16
_AT_ONCE = 2**8  # pieces: a streamed run has promised what memory it takes, and counts beside its steps


def frequency_loss(folder: Path) -> float:
    """Nats per held-out token of guessing each by its frequency among the training tokens.

    What a model without any training compute could reach: the ceiling of a scaling law. Of a split of more than 2^24
    tokens that many are counted, in 16 places spread over it; each token of the vocabulary is counted once more.

    Raises:
        WorkError: a shard has changed or cannot be read.
    """
    vocab_size = load_manifest(folder).tokenizer.vocab_size
    seen = 1 + _counts(TokenStream(folder, "train"), vocab_size)
    held_out = _counts(TokenStream(folder, "held_out"), vocab_size)
    return float(-(held_out @ np.log(seen / seen.sum())) / held_out.sum())


def _counts(stream: TokenStream, vocab_size: int) -> Tokens:
    """How often each token occurs in what is counted of the stream: (vocab_size,)."""
    length = _PIECE if stream.n_samples(_PIECE) else 1
    numbers = _spread(stream.n_samples(length))
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, len(numbers), _AT_ONCE):
        batch = stream.batch(numbers[first : first + _AT_ONCE], length)
        counts += np.bincount(batch[:, 1:].ravel(), minlength=vocab_size)
    return counts


def _spread(pieces: int) -> Tokens:
    """The numbers of those to count, in order."""
    # Few places: a shard is checked whole before the first of its tokens is given out.
    here = min(pieces, MOST_TOKENS // _PIECE) // _PLACES + 1
    starts = np.linspace(0, max(0, pieces - here), _PLACES).astype(np.int64)
    numbers = np.unique(starts[:, None] + np.arange(here))
    return numbers[numbers < pieces]
