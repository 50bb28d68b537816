"""SHA-256 of files; those hashed before and not touched since are not read again.

At the Pile's size a start would else read hundreds of gigabytes. Whatever writes to a file through its file system
changes its time of change (ctime), which no program can set back; what a disk does to it underneath shows only when
all is hashed anew.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoflop.cache import cache_folder
from isoflop.durable import write_text
from isoflop.errors import WorkError

_PIECE_BYTES = 2**22
# Smaller files are hashed always: a record of each would take as long to read.
_LEAST_BYTES = 2**20
# A file that was written within its file system's tick could be written again without a new time (FAT's tick is 2 s).
_SETTLED_SECONDS = 4.0


class Hashes:
    """Hashes of files below `root`, kept in the user's cache. With `anew`, each is read again whatever is kept."""

    def __init__(self, root: Path, anew: bool = False) -> None:
        place = os.path.abspath(root)
        self._path = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"
        self._anew = anew
        self._kept = _read(self._path)
        self._is_new = False

    def of(self, path: Path, first: int = 0, n_bytes: int | None = None) -> str:
        """The SHA-256 of a file, or of `n_bytes` of it from byte `first` on, in hexadecimal.

        Raises:
            OSError: it cannot be read.
        """
        name = f"{os.path.abspath(path)}@{first}+{n_bytes}"
        before = _touched(path)
        kept = self._kept.get(name)
        if kept is not None and kept[:-1] == before and not self._anew:
            return str(kept[-1])
        sha256 = _hashed(path, first, n_bytes)
        _inode, size, *times = before
        if size >= _LEAST_BYTES and _touched(path) == before and time.time() - max(times) / 1e9 > _SETTLED_SECONDS:
            self._kept[name] = [*before, sha256]
            self._is_new = True
        return sha256

    def known(self, path: Path) -> str | None:
        """The SHA-256 of a whole file where it is kept and the file was not touched since.

        Raises:
            OSError: it cannot be looked at.
        """
        kept = self._kept.get(f"{os.path.abspath(path)}@0+None")
        return str(kept[-1]) if kept is not None and kept[:-1] == _touched(path) else None

    def keep(self) -> None:
        """Writes down what was hashed. A cache that cannot be written costs time, nothing else."""
        if self._is_new:
            try:
                write_text(self._path, json.dumps(self._kept))
                self._is_new = False
            except (WorkError, OSError):
                pass


def _touched(path: Path) -> list[int]:
    """What changes when anything is written to a file."""
    state = os.stat(path)
    return [state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _hashed(path: Path, first: int, n_bytes: int | None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(first)
        left = os.fstat(file.fileno()).st_size if n_bytes is None else n_bytes
        while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        kept = json.loads(path.read_bytes())
        return {name: said for name, said in kept.items() if _is_record(said)}
    except (OSError, ValueError, AttributeError):
        return {}


def _is_record(said: Any) -> bool:
    return isinstance(said, Sequence) and len(said) == 5 and isinstance(said[-1], str) and len(said[-1]) == 64
