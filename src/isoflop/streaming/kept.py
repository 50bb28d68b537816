"""What layers keep between their forward and their backward pass: in memory, or on disk."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue

from torch import Tensor

from isoflop.streaming.pages import DirectFile, blocks, give_back, pages
from isoflop.streaming.store import Counter


class Kept:
    """Memory of `n_bytes` that (layer, microbatch) leaves in its forward and finds again in its backward pass.

    Each has its own, from step to step.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._memory: dict[tuple[int, int], Tensor] = {}

    @contextmanager
    def leave(self, layer: int, microbatch: int) -> Iterator[Tensor]:
        """Memory to leave things in."""
        if (layer, microbatch) not in self._memory:
            self._memory[layer, microbatch] = pages(self._n_bytes)[: self._n_bytes]
        yield self._memory[layer, microbatch]

    def rest(self, n_bytes: int) -> None:
        """All is left, and nothing is asked for until `expect`: somebody else needs so much memory meanwhile."""

    def expect(self, order: Sequence[tuple[int, int]]) -> None:
        """From now on `find` is called once for each of `order`, roughly in that order."""

    def find(self, layer: int, microbatch: int) -> AbstractContextManager[Tensor]:
        """Memory with what was left."""
        return self.leave(layer, microbatch)

    def close(self) -> None:
        """No more of it."""


class KeptOnDisk(Kept):
    """One file; `at_once` memories take turns. `carriers` read and write, `moved` counts both."""

    def __init__(
        self,
        path: Path,
        n_bytes: int,
        n_layers: int,
        microbatches: int,
        at_once: int,
        carriers: Pool,
        moved: Counter,
    ) -> None:
        super().__init__(n_bytes)
        self._microbatches, self._carriers, self._moved = microbatches, carriers, moved
        self._file = DirectFile(path, "scratch")
        self._file.reserve(n_layers * microbatches * blocks(n_bytes))
        self._at_once = at_once
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(at_once):
            self._free.put(pages(n_bytes)[:n_bytes])
        self._lock = threading.Lock()
        self._written: dict[tuple[int, int], Future[None]] = {}
        self._found: dict[tuple[int, int], Future[Tensor]] = {}
        self._order: deque[tuple[int, int]] = deque()

    @contextmanager
    def leave(self, layer: int, microbatch: int) -> Iterator[Tensor]:
        """As `Kept` says."""
        memory = self._free.get()

        def write() -> None:
            try:
                self._file.write(self._place(layer, microbatch), memory)
                self._moved.add(memory)
            finally:
                self._release(memory)

        try:
            yield memory
        except BaseException:
            self._release(memory)
            raise
        self._written[layer, microbatch] = self._carriers.submit(write)

    def rest(self, n_bytes: int) -> None:
        """As `Kept` says."""
        memories = [self._free.get() for _ in range(self._at_once)]  # when the last is written
        for memory in memories:
            give_back(memory[:n_bytes])  # no more: what comes back costs page faults
            n_bytes = max(0, n_bytes - len(memory))
            self._free.put(memory)

    def expect(self, order: Sequence[tuple[int, int]]) -> None:
        """As `Kept` says."""
        self._found = {key: Future() for key in order}
        with self._lock:
            self._order = deque(order)
        self._read_ahead()

    @contextmanager
    def find(self, layer: int, microbatch: int) -> Iterator[Tensor]:
        """As `Kept` says."""
        memory = self._found[layer, microbatch].result()
        try:
            yield memory
        finally:
            self._release(memory)

    def close(self) -> None:
        """As `Kept` says."""
        self._file.close()

    def _release(self, memory: Tensor) -> None:
        self._free.put(memory)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """Begins to read what is wanted next, as far as there is memory."""
        with self._lock:
            while self._order and not self._free.empty():
                memory = self._free.get()
                key = self._order.popleft()
                self._carriers.submit(self._read, key, memory, self._found[key])

    def _read(self, key: tuple[int, int], memory: Tensor, found: "Future[Tensor]") -> None:
        try:
            self._written.pop(key).result()
            content = self._file.read(self._place(*key), self._n_bytes, memory)
            self._moved.add(content)  # before anybody can have seen the end of the pass
            found.set_result(content)
        except BaseException as fault:
            found.set_exception(fault)
            self._free.put(memory)

    def _place(self, layer: int, microbatch: int) -> int:
        return (layer * self._microbatches + microbatch) * blocks(self._n_bytes)
