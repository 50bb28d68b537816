"""Bits of a model that change in memory by themselves are found before anything is made of them.

Between two updates nothing may change weights, moments or image: their checksums are taken after one and compared
before the next, and before a checkpoint. Systems tell one another those of the weights, so that a copy which arrived as
another is found too.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.errors import ChangedError
from isoflop.model import Lanes, Shard
from isoflop.streaming.checksum import checksum
from isoflop.systems.group import Systems, owner

WEIGHTS = "weights"


class Intact:
    """The checksums of the `shards` in flat buffers, of which every system holds `WEIGHTS` whole.

    `shared` are the names of the other buffers of which a system holds all shards; of the rest it holds its own.
    """

    def __init__(self, shards: Sequence[Shard], shared: Sequence[str], lanes: Lanes, systems: Systems) -> None:
        self._shards, self._shared, self._lanes, self._systems = shards, {WEIGHTS, *shared}, lanes, systems
        self._names: list[str] = []
        self._taken: Callable[[], npt.NDArray[np.float64]] = lambda: np.zeros((0, len(shards)))

    def take(self, flats: Mapping[str, Tensor]) -> None:
        """From now on the buffers stay as they are."""
        self._names = list(flats)
        self._taken = self._sums(flats)

    def check(self, flats: Mapping[str, Tensor]) -> None:
        """All systems call this alike.

        Raises:
            ChangedError: on all systems: a buffer of one of them has changed, or its weights are not their owner's.
        """
        now, taken = self._sums(flats)(), self._taken()
        differing = np.flatnonzero(now != taken)
        first = float(differing[0]) if len(differing) else -1.0
        weights = self._names.index(WEIGHTS)
        everyone = self._systems.gather(np.array([first, *taken[weights]]))
        owned = np.array([everyone[owner(shard.index, self._systems), 1 + i] for i, shard in enumerate(self._shards)])
        for rank, (code, *theirs) in enumerate(everyone):
            arrived = np.flatnonzero(np.array(theirs) != owned)
            if code < 0 and not len(arrived):
                continue
            name, shard = divmod(int(code), len(self._shards)) if code >= 0 else (weights, int(arrived[0]))
            what = f"the {self._names[name]} of {self._shards[shard].name}"
            raise changed(what, self._systems, rank)

    def _sums(self, flats: Mapping[str, Tensor]) -> Callable[[], npt.NDArray[np.float64]]:
        """(buffers, shards), when it is called: whole numbers under 2^32; zero for what this system does not hold."""
        rank = self._systems.rank
        held = [
            (i, shard, flat[shard.start : shard.stop])
            for i, (name, flat) in enumerate(flats.items())
            for shard in self._shards
            if name in self._shared or owner(shard.index, self._systems) == rank
        ]
        found = self._of([part for *_, part in held])

        def sums() -> npt.NDArray[np.float64]:
            sums = np.zeros((len(flats), len(self._shards)))
            for (i, shard, _), one in zip(held, found(), strict=True):
                sums[i, shard.index] = one
            return sums

        return sums

    def _of(self, parts: Sequence[Tensor]) -> Callable[[], list[int]]:
        if not parts or parts[0].device.type == "cpu":
            found = self._lanes.map(checksum, parts)
            return lambda: found
        together = added_up(parts)
        # Nobody waits for it until it is compared.
        return lambda: [one & 0xFFFFFFFF for one in together.tolist()]


def added_up(parts: Sequence[Tensor]) -> Tensor:
    """For each of `parts` (elements,), of two or four bytes each, the sum of its bits as whole numbers: (parts,) int64.

    A GPU takes it as fast as its memory gives them. Any bit that changes alone changes it, also modulo 2^32.
    """
    whole = {2: torch.int16, 4: torch.int32}
    return torch.stack([part.view(whole[part.itemsize]).sum() for part in parts])


def changed(what: str, systems: Systems, rank: int) -> ChangedError:
    """The fault of that system, with the step that all are at."""
    place = f"{systems.place}: " if systems.place else ""
    return ChangedError(what, f"{place}system {rank}: ")
