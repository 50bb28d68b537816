"""Sums come home to their owners and weights go out again, to the same bits for any number of systems."""

import threading
from collections.abc import Callable, Sequence
from queue import Queue

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from isoflop.systems import group as group_module
from isoflop.systems.group import Systems, bring_home, owner, send_out
from isoflop.train.learner import totals


class Threads(Systems):
    """Systems as threads of one process, for tests: what they share, each sees from its own rank."""

    place = ""

    def __init__(self, rank: int, size: int, shared: "Shared") -> None:
        self.rank, self.size, self._shared = rank, size, shared

    def gather(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        self._shared.rows[self.rank] = numbers.copy()
        self._shared.barrier.wait()
        everyone = np.stack([self._shared.rows[rank] for rank in range(self.size)])
        self._shared.barrier.wait()
        return everyone

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        for rank, tensor in sends:
            self._shared.between[self.rank, rank].put(tensor.clone())
        for rank, tensor in receives:
            tensor.copy_(self._shared.between[rank, self.rank].get(timeout=100))

    def doing(self, what: str) -> None:
        pass


class Shared:
    def __init__(self, size: int) -> None:
        self.rows: dict[int, npt.NDArray[np.float64]] = {}
        self.barrier = threading.Barrier(size)
        self.between: dict[tuple[int, int], Queue[Tensor]] = {(a, b): Queue() for a in range(size) for b in range(size)}


def on_threads(size: int, call: Callable[[Systems], object]) -> list[object]:
    """What `call` gives on each of `size` systems."""
    shared, answers = Shared(size), {}

    def one(rank: int) -> None:
        answers[rank] = call(Threads(rank, size, shared))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [answers[rank] for rank in range(size)]


LENGTHS = (5000, 1, 4097, 300, 4096, 20)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_integers_come_home_whole_and_owners_parts_go_out(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "SLICE", 1024)
    generator = torch.Generator().manual_seed(0)
    parts = [[torch.randint(-(2**60), 2**60, (n,), generator=generator) // size for n in LENGTHS] for _ in range(size)]
    wanted = [sum(one) for one in zip(*parts, strict=True)]

    def reduce(systems: Systems) -> None:
        own = list(enumerate(parts[systems.rank]))
        bring_home(systems, own)
        for index, part in own:
            if owner(index, systems) == systems.rank:
                assert torch.equal(part, torch.as_tensor(wanted[index]))
        send_out(systems, own)

    on_threads(size, reduce)
    for own in parts:
        for part, whole in zip(own, wanted, strict=True):
            assert torch.equal(part, torch.as_tensor(whole))


def test_a_sum_of_floats_is_the_same_whoever_had_which() -> None:
    numbers = np.random.default_rng(0).normal(size=37) * 10.0 ** np.arange(37)
    seen = set()
    for size in (1, 2, 3, 4):
        sums = on_threads(size, lambda systems: totals(systems, numbers[systems.rank :: systems.size], np.ones(2)))
        for total, added in sums:  # type: ignore[misc]
            seen.add(total)
            assert added.tolist() == [size, size]
    assert len(seen) == 1
