"""Lanes: threads side by side, each of which computes on one core. Results do not depend on how many there are."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

# Kernels and products round differently on another number of threads: a lane always has this many.
THREADS = 1

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Lanes:
    """`count` threads; one lane is the calling thread itself."""

    def __init__(self, count: int) -> None:
        torch.set_num_threads(THREADS)
        self.count = count
        self._pool = ThreadPoolExecutor(count, "lane", torch.set_num_threads, (THREADS,)) if count > 1 else None

    def map(self, function: Callable[[Task], Answer], tasks: Iterable[Task]) -> list[Answer]:
        """The answers in the order of the tasks; the first task that fails says why."""
        return list(map(function, tasks) if self._pool is None else self._pool.map(function, tasks))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
