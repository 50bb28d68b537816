"""The same function on many batches, on all cores, with results in the order of the batches and bounded memory."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from isoflop.errors import WorkError
from isoflop.interrupts import SIGNALS, held_back

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_shared: Any = None


def available_cores() -> int:
    """The cores that this process may use (a job of a cluster often has fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[Any, _Item], _Result], shared: Any, items: Iterable[_Item], workers: int
) -> Iterator[tuple[_Item, _Result]]:
    """(item, function(shared, item)) of every item. `shared` goes to each worker once; with 0 workers all is done here.

    At most three items a worker are read ahead. Workers end with this process, whatever ends it.

    Raises:
        WorkError: a worker was killed.
    """
    if workers == 0:
        yield from ((item, function(shared, item)) for item in items)
        return
    # A forked process would inherit the locks of threads that it has not: spawned ones start clean.
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(shared,))
    ahead: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            with held_back():
                ahead.append((item, pool.submit(_call, function, item)))
            if len(ahead) > 3 * workers:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    except BrokenProcessPool:
        raise WorkError(
            f"one of {workers} worker processes was killed, most likely for want of memory; "
            "run again with fewer (--workers): it goes on from the last finished shard"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(shared: Any) -> None:
    global _shared
    _shared = shared
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are what runs in parallel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


def _call(function: Callable[[Any, _Item], _Result], item: _Item) -> _Result:
    return function(_shared, item)
