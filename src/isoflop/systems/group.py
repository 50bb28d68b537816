"""Systems that train one model together: what each of them may ask of the others."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Elements that travel to an owner at once: a bound on what it must hold for the others, a few MiB each.
SLICE = 2**20


class Systems(Protocol):
    """`size` systems, of which this process is number `rank`; number 0 leads.

    All systems make the same calls in the same order. `place` says where in its work this one is: the model, the step.
    """

    rank: int
    size: int
    place: str

    def gather(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The `numbers` (n,) of every system, (size, n)."""

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """Sends tensors to other systems and receives into tensors from others, all at once."""

    def doing(self, what: str) -> None:
        """What this system is about from now on: said of it, with its place, when it is not heard of any more."""


class Alone(Systems):
    """One system."""

    rank = 0
    size = 1
    place = ""

    def gather(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As `Systems` says."""
        return numbers[None]

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """Nothing: there is nobody."""

    def doing(self, what: str) -> None:
        """Nothing: nobody listens."""


ALONE = Alone()


def owner(index: int, systems: Systems) -> int:
    """The system that owns the shard of that index."""
    return index % systems.size


def bring_home(systems: Systems, shards: Iterable[tuple[int, Tensor]]) -> None:
    """Adds the parts of all systems at their owners: `shards` are (index, this system's part (elements,)).

    Integers add up to the same bits in whatever order; fp32 is added in the order of the ranks.
    """
    if systems.size == 1:
        return
    others = [rank for rank in range(systems.size) if rank != systems.rank]
    for batch in _batches(shards, systems):
        mine = [part for home, part in batch if home == systems.rank]
        received = [(rank, part, torch.empty_like(part)) for part in mine for rank in others]
        sends = [(home, part) for home, part in batch if home != systems.rank]
        systems.exchange(sends, [(rank, theirs) for rank, _, theirs in received])
        for _, part, theirs in received:
            part += theirs


def send_out(systems: Systems, shards: Iterable[tuple[int, Tensor]]) -> None:
    """Fills every system's copy of the shards from their owners; `shards` as for `bring_home`."""
    if systems.size == 1:
        return
    others = [rank for rank in range(systems.size) if rank != systems.rank]
    homes = [(owner(index, systems), part) for index, part in shards]
    sends = [(rank, part) for home, part in homes if home == systems.rank for rank in others]
    systems.exchange(sends, [(home, part) for home, part in homes if home != systems.rank])


def _batches(shards: Iterable[tuple[int, Tensor]], systems: Systems) -> Iterator[list[tuple[int, Tensor]]]:
    """(owner, slice) of all shards, in batches of which no owner has more than `SLICE` elements."""
    batch: list[tuple[int, Tensor]] = []
    held = dict.fromkeys(range(systems.size), 0)
    for index, part in shards:
        home = owner(index, systems)
        for piece in torch.split(part, SLICE):
            if held[home] + piece.numel() > SLICE:
                yield batch
                batch, held = [], dict.fromkeys(range(systems.size), 0)
            batch.append((home, piece))
            held[home] += piece.numel()
    if batch:
        yield batch
