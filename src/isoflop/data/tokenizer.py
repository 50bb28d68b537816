"""Byte-level BPE: GPT-2's own, one trained on the corpus, or one from a file.

Merges alone decide the first two. Their token numbers follow GPT-2: 256 byte symbols, one token a merge in order,
`<|endoftext|>` last.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from isoflop.config import BpeTokenizer, FileTokenizer, Gpt2Tokenizer
from isoflop.data.split import content_hash
from isoflop.errors import FamilyError, WorkError
from isoflop.given import read_given

END_OF_TEXT = "<|endoftext|>"

GPT2_MERGES = Path(__file__).with_name("gpt2") / "vocab.bpe"

# 8 MB of the pocket corpus train 1,024 tokens in 0.9 s on two cores; all 31 MB take 3 s and encode 0.4 % shorter.
_SAMPLE_BYTES = 2**23

# The bytes that stand for themselves in GPT-2's vocabulary: printable ASCII and Latin-1, no spaces, no soft hyphen.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]

_Merges = list[tuple[str, str]]


def make_tokenizer(config: Gpt2Tokenizer | BpeTokenizer | FileTokenizer, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config` asks for; only a trained one reads `texts`.

    Training uses the texts of smallest content hash, 8 MiB of them: the same ones in whatever order they come.

    Raises:
        FamilyError: the texts hold too few different pairs for the vocabulary asked for, or the file cannot be used.
    """
    if isinstance(config, FileTokenizer):
        return _from_file(config)
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
    """The number of the end-of-text token: the last of the vocabulary, but for tokenizers from a file."""
    number = tokenizer.token_to_id(END_OF_TEXT)
    assert number is not None
    return number


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """How many bytes of text each token of a byte-level BPE stands for, 0 for end-of-text: (largest number + 1,).

    Raises:
        FamilyError: it is no byte-level BPE, whose tokens alone do not tell.
    """
    alphabet = set(symbols_of_bytes())
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for symbols, number in vocabulary.items():
        # A symbol of the byte-level alphabet is a byte; an added token is text as it is.
        if number not in added and not alphabet.issuperset(symbols):
            raise FamilyError(
                f"data.tokenizer: token {number} ({symbols!r}) is not of a byte-level BPE, without which tokens do not "
                "tell the bytes of their text; give the text instead of its tokens"
            )
        lengths[number] = len(added[number].encode()) if number in added else len(symbols)
    lengths[end_of_text(tokenizer)] = 0
    return lengths


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """What data/tokenizer.json holds, to the byte."""
    return str(tokenizer.to_str())


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """The tokenizer's hash: SHA-256 of `tokenizer_json`."""
    return hashlib.sha256(tokenizer_json(tokenizer).encode()).hexdigest()


def ranks_of(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The tokens but for end-of-text as bytes, with their numbers, as tiktoken asks for them."""
    byte_of = {symbol: byte for byte, symbol in enumerate(symbols_of_bytes())}
    vocabulary = tokenizer.get_vocab().items()
    return {bytes(byte_of[s] for s in token): number for token, number in vocabulary if token != END_OF_TEXT}


def symbols_of_bytes() -> list[str]:
    """GPT-2's printable stand-in for each byte, in the order of the bytes."""
    symbol_of = dict(zip(_symbol_bytes(), _byte_symbols(), strict=True))
    return [symbol_of[byte] for byte in range(256)]


def _from_file(config: FileTokenizer) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(read_given(config.path).decode())
    except Exception as error:  # tokenizers raises bare Exception
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0][:200]
        raise FamilyError(
            f"data.tokenizer.path: cannot load {config.path} ({reason}); give the tokenizer.json of the tokens"
        ) from None
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise FamilyError(f"data.tokenizer.path: {config.path} has no token {END_OF_TEXT}; add it as a special token")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise FamilyError(
            f"data.tokenizer.vocab_size = {config.vocab_size}: {config.path} has token {largest}; "
            f"use {largest + 1} or more"
        )
    return tokenizer


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
    return [chr(byte) for byte in _PRINTABLE] + [chr(256 + number) for number in range(256 - len(_PRINTABLE))]


def _symbol_bytes() -> list[int]:
    """The bytes that `_byte_symbols` stand for, in the same order."""
    return [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]


def _pair(symbols: list[str]) -> tuple[str, str]:
    left, right = symbols
    return left, right
