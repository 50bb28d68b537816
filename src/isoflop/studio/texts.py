"""Which runs trained on the text of a quote: told by what its files hold, wherever they lie."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from isoflop.config import DataSource
from isoflop.errors import InputError
from isoflop.studio.places import Places

# Files of more bytes are not read for a quote: they count by hashes that are known already, as those of a corpus that
# was prepared on this machine and not touched since.
MOST_HASHED = 2**28
# What is said of a corpus and changes no token.
TOLD = ("source", "licence", "openness", "datasets", "faults_allowed", "tokens", "epochs")

Files = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Text:
    """`settings` make tokens of files, whose bytes and SHA-256 are `files`; of a corpus elsewhere its address."""

    settings: str
    files: Files
    train_tokens: int | None


class Asked:
    """The text of a quote; its files are looked at when a run's settings are the same, and read when sizes are too."""

    def __init__(self, data: DataSource, prepared: Path | None) -> None:
        self._data, self._prepared = data, prepared
        self.settings = _settings(data)

    def is_that_of(self, text: Text | None) -> bool:
        """Whether losses on it compare with those of a run on `text`."""
        if text is None or text.settings != self.settings:
            return False
        return self._sizes == tuple(size for size, _ in text.files) and self._files == text.files

    @cached_property
    def _known(self) -> Files | None:
        """What needs no look at the corpus; None where it does."""
        if self._prepared is not None:
            return _files_of(_read_json(self._prepared / "manifest.json"))
        return None if isinstance(self._data.source, Path) else ((0, self._data.source),)

    @cached_property
    def _sizes(self) -> tuple[int, ...] | None:
        from isoflop.data.corpus import corpus_files

        if self._known is not None:
            return tuple(size for size, _ in self._known)
        try:
            return tuple(file.bytes for file in corpus_files(self._data))
        except InputError:  # it is not here any more: whose text it was nobody can tell
            return None

    @cached_property
    def _files(self) -> Files | None:
        from isoflop.data.corpus import corpus_files
        from isoflop.data.hashes import Hashes

        if self._known is not None:
            return self._known
        hashes = Hashes(Path(self._data.source))
        found = []
        try:
            for file in corpus_files(self._data):
                if file.bytes > MOST_HASHED and hashes.known(Path(file.address)) is None:
                    return None
                found.append((file.bytes, hashes.of(Path(file.address))))
        except (InputError, OSError):
            return None
        hashes.keep()
        return tuple(found)


class Texts:
    """What runs were trained on; read again only when their files have changed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._kept: dict[str, tuple[tuple[int, ...], Text | None]] = {}

    def of_run(self, name: str) -> Text | None:
        """None where the run has no tokens yet, or its files are damaged."""
        paths = [f"{self._places.runs}/{name}/{file}" for file in ("family.json", "data/manifest.json")]
        try:
            stamp = tuple(os.stat(path).st_mtime_ns for path in paths)
        except OSError:
            return None
        kept = self._kept.get(name)
        if kept is None or kept[0] != stamp:
            kept = self._kept[name] = (stamp, _read(*map(Path, paths)))
        return kept[1]

    def same(self, asked: Asked, names: Iterable[str]) -> list[str]:
        """Those of the runs that were trained on the text."""
        return [name for name in names if asked.is_that_of(self.of_run(name))]


def _read(family: Path, manifest: Path) -> Text | None:
    said, made = _read_json(family), _read_json(manifest)
    files = _files_of(made)
    try:
        data = DataSource.model_validate_json(json.dumps(said["data"]))
        tokens = int(made["splits"]["train"]["tokens"])
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(data.source, Path):
        files = ((0, data.source),)
    return None if files is None else Text(_settings(data), files, tokens)


def _files_of(manifest: Any) -> Files | None:
    try:
        return tuple((int(one["bytes"]), str(one["sha256"])) for one in manifest["sources"])
    except (ValueError, TypeError, KeyError):
        return None


def _settings(data: DataSource) -> str:
    full = data.model_dump(mode="json")
    return json.dumps({key: value for key, value in full.items() if key not in TOLD}, sort_keys=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
