"""Batches read before they are asked for, so that training does not wait for the disk; and how long it waited."""

import queue
import threading
from collections.abc import Iterable
from time import perf_counter

import numpy.typing as npt

from isoflop.data.shards import Tokens, TokenStream


class ReadAhead:
    """Gives the batches of `requests`, the sample numbers of one each, in their order; a thread reads `depth` ahead.

    `wait_seconds` counts up how long `take` has waited for batches that were not there yet. Close it, or use it in a
    `with` block.
    """

    def __init__(
        self, stream: TokenStream, context_length: int, requests: Iterable[npt.ArrayLike], depth: int = 4
    ) -> None:
        self.wait_seconds = 0.0
        self._ready: queue.Queue[Tokens | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        arguments = (stream, context_length, iter(requests))
        self._thread = threading.Thread(target=self._read, args=arguments, daemon=True)
        self._thread.start()

    def take(self) -> Tokens:
        """The next batch: (samples, context_length + 1).

        Raises:
            WorkError: a shard that holds one of its samples has changed.
            IndexError: there is no further one.
        """
        try:  # where the batch is there, a busy machine may hold up this thread all the same: that is no waiting for it
            got = self._ready.get_nowait()
        except queue.Empty:
            began = perf_counter()
            got = self._ready.get()
            self.wait_seconds += perf_counter() - began
        if got is None or isinstance(got, BaseException):
            self._ready.put(got)  # whoever asks again hears the same
            raise IndexError("no further batch was asked for") if got is None else got
        return got

    def close(self) -> None:
        """Reads no further."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _read(self, stream: TokenStream, context_length: int, requests: Iterable[npt.ArrayLike]) -> None:
        last: BaseException | None = None
        try:
            for samples in requests:
                if self._closed.is_set():
                    return
                self._ready.put(stream.batch(samples, context_length))
        except BaseException as error:
            last = error
        if not self._closed.is_set():
            self._ready.put(last)
