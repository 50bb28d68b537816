"""Which documents the samples of a batch were cut from: source file, place in it, domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.data.hashes import Hashes
from isoflop.data.manifest import SplitName, load_manifest
from isoflop.data.shards import refuse_changed


@dataclass(frozen=True)
class Passage:
    """A stretch of one document in a sample.

    The sample's tokens `first` to `first + tokens - 1` are the document's from `document_token` on. `offset` counts
    bytes of the (decompressed) source file, or its rows, to where the document begins.
    """

    sample: int
    first: int
    tokens: int
    source: str
    offset: int
    domain: str
    document_token: int
    document_tokens: int


class DocumentIndex:
    """Finds documents by the place of their tokens in a split.

    Raises:
        WorkError: the manifest cannot be used; later, from `passages`, a list of documents is missing or has changed.
    """

    def __init__(self, folder: Path, split: SplitName) -> None:
        manifest = load_manifest(folder)
        self._folder = folder
        self._hashes = Hashes(folder)
        self._shards = manifest.split(split).shards
        self._sources = [source.file for source in manifest.sources]
        self._starts = np.cumsum([0, *(shard.tokens for shard in self._shards)], dtype=np.int64)
        self._list = lru_cache(maxsize=64)(self._load)

    def passages(self, samples: Sequence[int], context_length: int) -> list[Passage]:
        """What the samples hold, in their order; a sample has context_length + 1 tokens, the last only a target."""
        return [passage for sample in samples for passage in self._of(int(sample), context_length)]

    def domains(self) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The split's domains by name; of every document in order, the number of its domain and its tokens."""
        names: dict[str, int] = {}
        numbers, sizes = [], []
        for number, shard in enumerate(self._shards):
            listed, _ = self._list(number)
            mine = np.array([names.setdefault(name, len(names)) for name in shard.domains], dtype=np.int64)
            numbers.append(mine[listed["domain"]])
            sizes.append(listed["tokens"].astype(np.int64))
        empty = np.empty(0, np.int64)
        return list(names), np.concatenate([empty, *numbers]), np.concatenate([empty, *sizes])

    def _of(self, sample: int, context_length: int) -> list[Passage]:
        begin = sample * context_length
        end = begin + context_length + 1
        found = []
        place = begin
        while place < end:
            shard = int(np.searchsorted(self._starts, place, side="right")) - 1
            listed, ends = self._list(shard)
            in_shard = place - int(self._starts[shard])
            row = int(np.searchsorted(ends, in_shard, side="right"))
            document = listed[row]
            until = min(end, int(self._starts[shard]) + int(ends[row]))
            found.append(
                Passage(
                    sample=sample,
                    first=place - begin,
                    tokens=until - place,
                    source=self._sources[document["file"]],
                    offset=int(document["offset"]),
                    domain=self._shards[shard].domains[document["domain"]],
                    document_token=in_shard - int(ends[row]) + int(document["tokens"]),
                    document_tokens=int(document["tokens"]),
                )
            )
            place = until
        return found

    def _load(self, shard: int) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
        """The list of a shard's documents, and where in the shard each ends."""
        record = self._shards[shard]
        refuse_changed(self._hashes, self._folder, record.list_file, record.list_sha256)
        listed = np.load(self._folder / record.list_file, allow_pickle=False)
        return listed, np.cumsum(listed["tokens"], dtype=np.int64)
