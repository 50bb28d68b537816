"""Text to token numbers, a document at a time, in bounded memory.

Three encoders give the same numbers (benchmarks/data.py has their rates): bpe.c of this package where there is a C
compiler, else tiktoken, 4 times as fast on one core as `tokenizers`, which takes what those two cannot know: the
tokenizer of a file, whose words may be others.
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from tiktoken import Encoding
from tokenizers import Tokenizer

from isoflop.data.bpe import BytePairs, load_bpe
from isoflop.data.tokenizer import END_OF_TEXT, end_of_text, ranks_of

Kind = Literal["gpt2", "bpe", "file"]

# A token on the way takes up to 100 bytes. Long documents are encoded in pieces, so that memory stays bounded. A piece
# ends before white space that follows something else: GPT-2's pattern never joins these two into one word.
_PIECE_CHARACTERS = 2**18
_SAFE_CUT = re.compile(r"(?<=\S)(?=[ \n])")

# Radford et al. 2019, encoder.py, with possessive repeats that match the same and never go back.
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Encoder:
    """Encodes with the tokenizer whose tokenizer.json is given. It can be sent to another process."""

    def __init__(self, kind: Kind, tokenizer_json: str) -> None:
        self.kind: Kind = kind
        self.json = tokenizer_json

    def __reduce__(self) -> tuple[type["Encoder"], tuple[Kind, str]]:
        return Encoder, (self.kind, self.json)

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """The tokens of a text: (n_tokens,), without an end-of-text token.

        A text that spells out <|endoftext|> is encoded as the letters that it is, so documents end only where they end.
        """
        return np.concatenate(list(self.encode_in_pieces(text)))

    def encode_in_pieces(self, text: str) -> Iterator[npt.NDArray[np.uint32]]:
        """The same a piece at a time, since tokens on the way take far more room than they do in the end."""
        if len(text) <= _PIECE_CHARACTERS or self.kind == "file":  # whose pattern may be another
            yield self._encode(text)
        else:
            yield from map(self._encode, _pieces(text))

    @cached_property
    def end_of_text(self) -> int:
        """The number of the end-of-text token."""
        return end_of_text(self._tokenizer)

    def _encode(self, text: str) -> npt.NDArray[np.uint32]:
        if self._byte_pairs is not None:
            return self._byte_pairs.encode(text)
        if self._tiktoken is not None:
            return self._tiktoken.encode_to_numpy(text, disallowed_special=())
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.uint32)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.json)
        tokenizer.encode_special_tokens = True  # "as text", and no part of the tokenizer's JSON
        return tokenizer

    @cached_property
    def _byte_pairs(self) -> BytePairs | None:
        compiled = load_bpe() if self.kind != "file" else None
        return BytePairs(compiled, self.json) if compiled else None

    @cached_property
    def _tiktoken(self) -> Encoding | None:
        """The same tokens in tiktoken, if it is certain that they are the same."""
        if self.kind == "file" or not self._is_proper():
            return None
        ranks = ranks_of(self._tokenizer)
        special = {END_OF_TEXT: self.end_of_text}
        return Encoding(self.kind, pat_str=_GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def _is_proper(self) -> bool:
        """Whether each merge makes a token of its own, and each token's own bytes are merged to it and nothing else.

        `tokenizers` merges the pairs of its list, tiktoken any two neighbours that make a token, both the lowest
        number first. Neighbours that make a token t came about as t's own bytes do alone, since no merge crossed
        their ends; so if t's bytes alone are merged to t, its last pair is the one of the list, and both do the same.
        """
        n_merges = len(json.loads(self.json)["model"]["merges"])
        symbols = [token for token in self._tokenizer.get_vocab() if token != END_OF_TEXT]
        tokenize = self._tokenizer.model.tokenize
        return len(symbols) == 256 + n_merges and all(len(tokenize(token)) == 1 for token in symbols)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while cut := _SAFE_CUT.search(text, start + _PIECE_CHARACTERS):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]
