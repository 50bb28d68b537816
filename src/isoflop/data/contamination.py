"""Text of downstream tasks in training documents: found by the n-grams of words that they share.

Thirteen words in a row are what Brown et al. 2020 (GPT-3, appendix C) take for an overlap; texts with fewer words
cannot be told from chance.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.data.task_texts import task_files, texts_of

NGRAM_WORDS = 13

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_Hashes = npt.NDArray[np.uint64]


class Tasks:
    """The n-grams of tasks, by their names. Words are compared in lower case, without what lies between them."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        words = sorted({word for many in texts.values() for text in many for word in _words(text)})
        self._number = {word: number for number, word in enumerate(words, start=1)}
        self.ngrams: dict[str, _Hashes] = {
            name: np.unique(np.concatenate([np.empty(0, np.uint64), *map(self._hashes, many)]))
            for name, many in texts.items()
        }
        self._all = np.unique(np.concatenate([np.empty(0, np.uint64), *self.ngrams.values()]))

    def found_in(self, text: str) -> dict[str, _Hashes]:
        """The n-grams of each task that the text holds; tasks that share none are left out."""
        hashes = _common(np.unique(self._hashes(text)), self._all)
        if not len(hashes):
            return {}
        found = {name: _common(hashes, ngrams) for name, ngrams in self.ngrams.items()}
        return {name: shared for name, shared in found.items() if len(shared)}

    def _hashes(self, text: str) -> _Hashes:
        """A hash of every 13 words in a row that all occur in some task."""
        number = self._number.get
        numbers = np.array([number(word, 0) for word in _words(text)], dtype=np.uint64)
        n_windows = len(numbers) - NGRAM_WORDS + 1
        if n_windows < 1:
            return np.empty(0, np.uint64)
        hashes, known = np.zeros(n_windows, np.uint64), np.ones(n_windows, bool)
        for place in range(NGRAM_WORDS):
            part = numbers[place : place + n_windows]
            hashes = (hashes ^ part) * _FACTOR
            hashes ^= hashes >> np.uint64(29)
            known &= part != 0
        return hashes[known]


def load_tasks(folder: Path) -> Tasks:
    """The tasks of a folder, by their names.

    Raises:
        InputError: the folder or a file cannot be read, or none is there.
    """
    files = task_files(folder)
    return Tasks({name: [text for path in mine for text in texts_of(path)] for name, mine in files.items()})


def _common(few: _Hashes, many: _Hashes) -> _Hashes:
    """Those of `few` that are among the sorted `many`. NumPy's isin would go through all of `many` each time."""
    if not len(many):
        return few[:0]
    places = np.minimum(np.searchsorted(many, few), len(many) - 1)
    shared: _Hashes = few[many[places] == few]
    return shared


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
