"""Documents to token numbers, on all cores (the tokenizers library's threads), in bounded memory."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from isoflop.data.readers import Document
from isoflop.data.tokenizer import end_of_text

# An encoded token takes about 100 bytes until it becomes a number: a million characters are some 50 MB at once.
_BATCH_CHARACTERS = 2**20

# Long documents are encoded in pieces, so that memory stays bounded and all cores have work. A piece ends before white
# space that follows something else: GPT-2's pattern never joins these two into one word, so the tokens are the same.
_PIECE_CHARACTERS = 2**18
_SAFE_CUT = re.compile(r"(?<=\S)(?=[ \n])")


@dataclass(frozen=True, slots=True)
class _Piece:
    document: Document
    text: str
    is_last: bool


def encode_documents(
    tokenizer: Tokenizer, documents: Iterable[Document]
) -> Iterator[tuple[Document, npt.NDArray[np.uint32]]]:
    """Each document with its tokens, end-of-text last: (n_tokens,).

    A text that spells out <|endoftext|> is encoded as the letters that it is, so documents end only where they end.
    """
    tokenizer.encode_special_tokens = True  # "as text", and no part of the tokenizer's JSON
    end = np.array([end_of_text(tokenizer)], dtype=np.uint32)
    tokens: list[npt.NDArray[np.uint32]] = []
    for batch in _batches(documents):
        encodings = tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
        for piece, encoding in zip(batch, encodings, strict=True):
            tokens.append(np.array(encoding.ids, dtype=np.uint32))
            if piece.is_last:
                yield piece.document, np.concatenate([*tokens, end])
                tokens = []


def _batches(documents: Iterable[Document]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    n_characters = 0
    for document in documents:
        for piece in _pieces(document):
            batch.append(piece)
            n_characters += len(piece.text)
            if n_characters >= _BATCH_CHARACTERS:
                yield batch
                batch, n_characters = [], 0
    if batch:
        yield batch


def _pieces(document: Document) -> Iterator[_Piece]:
    start, text = 0, document.text
    while cut := _SAFE_CUT.search(text, start + _PIECE_CHARACTERS):
        yield _Piece(document, text[start : cut.start()], is_last=False)
        start = cut.start()
    yield _Piece(document, text[start:], is_last=True)
