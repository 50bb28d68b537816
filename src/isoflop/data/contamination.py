"""Text of downstream tasks in training documents: found by the n-grams of words that they share.

A task is a file of a folder: .jsonl with any JSON a line, all of whose strings count, or .txt. Thirteen words in a row
are what Brown et al. 2020 (GPT-3, appendix C) take for an overlap; texts with fewer words cannot be told from chance.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.errors import InputError
from isoflop.given import read_given, refuse_unless_plain

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
        hashes = self._hashes(text)
        hashes = hashes[np.isin(hashes, self._all)]
        if not len(hashes):
            return {}
        found = {name: np.intersect1d(hashes, ngrams) for name, ngrams in self.ngrams.items()}
        return {name: shared for name, shared in found.items() if len(shared)}

    def _hashes(self, text: str) -> _Hashes:
        """A hash of every 13 words in a row that all occur in some task."""
        numbers = np.fromiter((self._number.get(word, 0) for word in _words(text)), dtype=np.uint64)
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
    """The tasks of a folder, one a file, named as the file without its suffix.

    Raises:
        InputError: the folder or a file cannot be read, or none is there.
    """
    texts = {path.stem: list(_texts(path)) for path in task_files(folder)}
    return Tasks(texts)


def task_files(folder: Path) -> list[Path]:
    """The files of the tasks, sorted.

    Raises:
        InputError: there is none, or one is no plain file.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in (".jsonl", ".txt"))
    for path in found:
        try:
            refuse_unless_plain(path)
        except OSError as error:
            raise InputError(f"{path}: cannot read ({error.strerror}); give .jsonl or .txt files") from None
    if not found:
        raise InputError(f"{folder}: holds no task; set data.decontaminate to a folder of .jsonl or .txt files")
    return found


def _texts(path: Path) -> Iterator[str]:
    try:
        content = read_given(path).decode()
        if path.suffix == ".txt":
            yield content
            return
        for line in content.splitlines():
            if line.strip():
                yield " ".join(_strings(json.loads(line)))
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a text or JSON lines ({error}); correct it") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
