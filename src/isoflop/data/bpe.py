"""bpe.c, called with text: GPT-2's words and merges at several times the rate of a library."""

import functools
import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from tiktoken import Encoding

from isoflop.compiled import Compiled, load_compiled
from isoflop.data.tokenizer import symbols_of_bytes

# 32 bytes each. 2^15 words hold 97 % of those in a text, and fit into a core's own cache.
_WORD_BITS = 15
_WORD_BYTES = 32
_MERGE_BYTES = 16
_WINDOW_BYTES = 1024  # eight times GPT-2's longest token
_USUAL_ROOM = 2**20

_CHARACTERS = 0x110000
_CHARACTERS_AT_ONCE = 2**12
_CLASSES = {1: r"\p{L}", 2: r"\p{N}", 3: r"\s"}
_OTHER = 4


class BytePairs:
    """Encodes text with a byte-level BPE whose words are GPT-2's. Not for several threads at once."""

    def __init__(self, compiled: Compiled, tokenizer_json: str) -> None:
        model = json.loads(tokenizer_json)["model"]
        vocabulary: dict[str, int] = model["vocab"]
        self._compiled = compiled
        symbols = np.array([vocabulary[symbol] for symbol in symbols_of_bytes()], dtype=np.uint32)
        pairs = [(vocabulary[left], vocabulary[right]) for left, right in model["merges"]]
        left, right = np.array(pairs, dtype=np.uint32).reshape(-1, 2).T.copy()
        made = np.array([vocabulary[left + right] for left, right in model["merges"]], dtype=np.uint32)
        lengths = np.ones(max(vocabulary.values()) + 1, dtype=np.uint32)
        for token, number in vocabulary.items():
            lengths[number] = len(token)
        merge_bits = (2 * len(pairs) + 1).bit_length()  # at most half of the table is filled
        merges = np.empty(_MERGE_BYTES << merge_bits, dtype=np.uint8)
        compiled.fill_merges(_address(left), _address(right), len(pairs), _address(merges), merge_bits)
        words = np.zeros(_WORD_BYTES << _WORD_BITS, dtype=np.uint8)
        self._classes = np.zeros(_CHARACTERS, dtype=np.uint8)
        self._room = np.empty(_USUAL_ROOM, dtype=np.uint32)
        # Their addresses are taken once: numpy needs a microsecond for each, and a document has some 5 kB.
        self._held = (symbols, merges, made, lengths, words)
        self._tables = (
            *(_address(symbols), _address(merges), merge_bits),
            *(_address(made), _address(lengths), _address(words), _WORD_BITS),
        )

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """The tokens of a text: (n_tokens,)."""
        content = text.encode()
        is_usual = len(content) + 3 <= _USUAL_ROOM
        out = self._room if is_usual else np.empty(len(content) + 3, dtype=np.uint32)
        while (count := self._count(content, out)) < 0:
            if count < -_CHARACTERS:
                raise MemoryError
            self._learn_class(-1 - count)
        return out[:count].copy() if is_usual else out[:count]

    def _count(self, content: bytes, out: npt.NDArray[np.uint32]) -> int:
        """How many tokens of `content` now are in `out`, or what bpe.c says instead."""
        arguments = (content, len(content), _address(self._classes), *self._tables, _WINDOW_BYTES, _address(out))
        count: int = self._compiled.encode(*arguments)
        return count

    def _learn_class(self, character: int) -> None:
        """Asks tiktoken what that character and its neighbours are, so that both know the same Unicode."""
        first = character - character % _CHARACTERS_AT_ONCE
        numbers = [n for n in range(first, first + _CHARACTERS_AT_ONCE) if not 0xD800 <= n < 0xE000]
        self._classes[numbers] = _OTHER
        text = "".join(map(chr, numbers))
        for number, encoding in _class_encodings().items():
            matched = encoding.decode_bytes(encoding.encode_ordinary(text)).decode()
            self._classes[[ord(letter) for letter in matched]] = number


@functools.cache
def load_bpe() -> Compiled | None:
    """The functions of bpe.c; None where this machine has no C compiler that works."""
    if sys.byteorder != "little":
        return None
    return load_compiled("isoflop.data", "bpe")


def _address(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data


@functools.cache
def _class_encodings() -> dict[int, Encoding]:
    """By class, what encodes its characters and leaves out all others."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return {
        number: Encoding(pattern, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for number, pattern in _CLASSES.items()
    }
