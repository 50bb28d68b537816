"""Byte-level BPE: GPT-2's own, or one trained on the corpus. Merges alone decide either.

Token numbers follow GPT-2: 256 byte symbols, one token a merge in order, `<|endoftext|>` last.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from isoflop.config import BpeTokenizer, Gpt2Tokenizer
from isoflop.data.split import content_hash
from isoflop.errors import FamilyError, WorkError

END_OF_TEXT = "<|endoftext|>"

GPT2_MERGES = Path(__file__).with_name("gpt2") / "vocab.bpe"

# 8 MB of the pocket corpus train 1,024 tokens in 0.9 s on two cores; all 31 MB take 3 s and encode 0.4 % shorter.
_SAMPLE_BYTES = 2**23

_Merges = list[tuple[str, str]]


def make_tokenizer(config: Gpt2Tokenizer | BpeTokenizer, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config` asks for; only a trained one reads `texts`.

    Training uses the texts of smallest content hash, 8 MiB of them: the same ones in whatever order they come.

    Raises:
        FamilyError: the texts hold too few different pairs for the vocabulary asked for.
    """
    merges = _gpt2_merges() if isinstance(config, Gpt2Tokenizer) else _trained_merges(config.vocab_size, _sample(texts))
    tokenizer = _from_merges(merges)
    vocab_size = tokenizer.get_vocab_size()
    if vocab_size < config.vocab_size:
        raise FamilyError(
            f"data.tokenizer.vocab_size = {config.vocab_size}: the text to train on gives only {vocab_size} tokens; "
            f"use vocab_size = {vocab_size} or less, more text, or a lower held_out_fraction"
        )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer saved at `path` (data/tokenizer.json).

    Raises:
        WorkError: the file is missing or damaged.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise WorkError(
            f"{path}: cannot load the tokenizer ({error}); delete {path.parent} and prepare the data again"
        ) from None


def end_of_text(tokenizer: Tokenizer) -> int:
    """The number of the end-of-text token, the last of the vocabulary."""
    return int(tokenizer.get_vocab_size()) - 1


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """What data/tokenizer.json holds, to the byte."""
    return str(tokenizer.to_str())


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """The tokenizer's hash: SHA-256 of `tokenizer_json`."""
    return hashlib.sha256(tokenizer_json(tokenizer).encode()).hexdigest()


def _gpt2_merges() -> _Merges:
    _version, *lines = GPT2_MERGES.read_text(encoding="utf-8").splitlines()
    return [_pair(line.split(" ")) for line in lines if line]


def _sample(texts: Iterable[str]) -> list[str]:
    """The texts of smallest content hash, in its order, just enough to make `_SAMPLE_BYTES`; no more are ever held."""
    kept: list[tuple[int, int, str]] = []  # a heap with the largest hash on top
    n_bytes = 0
    for text in texts:
        size = len(text.encode())
        heapq.heappush(kept, (-content_hash(text), size, text))
        n_bytes += size
        while n_bytes - kept[0][1] >= _SAMPLE_BYTES:
            n_bytes -= heapq.heappop(kept)[1]
    return [text for _, _, text in sorted(kept, reverse=True)]


def _trained_merges(vocab_size: int, texts: list[str]) -> _Merges:
    # A text has no more pairs than bytes. The trainer reserves memory for what it is asked for, so ask for no more.
    n_symbols = min(vocab_size - 1, 256 + sum(len(text.encode()) for text in texts))
    tokenizer = _from_merges([])
    trainer = trainers.BpeTrainer(
        vocab_size=n_symbols,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [_pair(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _from_merges(merges: _Merges) -> Tokenizer:
    vocabulary = {symbol: number for number, symbol in enumerate(_byte_symbols())}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    vocabulary[END_OF_TEXT] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte, in the order of its vocabulary.

    Printable bytes stand for themselves and come first, the others follow as the characters from U+0100 on
    (Radford et al. 2019, byte_to_unicode).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    n_others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(n_others)]


def _pair(symbols: list[str]) -> tuple[str, str]:
    left, right = symbols
    return left, right
