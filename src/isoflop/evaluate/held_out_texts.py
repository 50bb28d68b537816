"""The held-out documents as text again, a bounded share of them, in an order that hashes decide."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from isoflop.data import DocumentIndex, TokenStream, load_manifest
from isoflop.data.manifest import TOKENIZER_FILE
from isoflop.data.tokenizer import load_tokenizer

# A thousand items of each kind need some two megabytes of varied text; more would only take longer to read.
MOST_TOKENS = 2**21

T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """A held-out document: its number in the split, its domain (empty if it has none) and its text."""

    number: int
    domain: str
    text: str

    @cached_property
    def characters_a_byte(self) -> float:
        """How many characters a byte of UTF-8 holds."""
        return len(self.text) / max(1, len(self.text.encode()))


def read_texts(data: Path) -> list[Text]:
    """Held-out documents of the prepared data in `data`: all, or some two million tokens of them spread over the split.

    Raises:
        WorkError: the data are damaged.
    """
    names, domains, sizes = DocumentIndex(data, "held_out").domains()
    ends = np.cumsum(sizes)
    end_of_text = load_manifest(data).tokenizer.end_of_text
    tokenizer = load_tokenizer(data / TOKENIZER_FILE)
    stream = TokenStream(data, "held_out")
    texts, tokens_read = [], 0
    for number in by_hash(range(len(sizes)), str):
        if tokens_read >= MOST_TOKENS:
            break
        begin, end = int(ends[number] - sizes[number]), int(ends[number])
        end = min(end, begin + MOST_TOKENS // 8)  # one huge document is not all of a suite
        tokens_read += end - begin
        pairs = stream.batch(range(begin, end - 1), 1)  # (tokens - 1, 2)
        tokens = [*pairs[:, 0].tolist(), *pairs[-1:, 1].tolist()]
        if tokens and tokens[-1] == end_of_text:
            tokens.pop()
        texts.append(Text(number, names[domains[number]], tokenizer.decode(tokens, skip_special_tokens=False)))
    return sorted(texts, key=lambda text: text.number)


def by_hash(items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """The items in an order that depends on their names alone, and on no generator of random numbers."""
    return sorted(items, key=lambda item: hash_of(name(item)))


def hash_of(text: str) -> int:
    """64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
