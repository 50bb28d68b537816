"""Keeps freed memory in the process: a training step frees and asks again for the same large buffers."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Tells glibc to neither map large buffers one by one nor to give them back.

    Faulting the pages in anew at each step costs 1.1 to 1.7 times the step (two Zen 5 cores). No effect elsewhere.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        # A thread's own arena holds at most 64 MB: beyond it, every buffer would be mapped anew.
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Gives it back this once: after work whose buffers will not be asked for again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_large_buffers(n_bytes: int) -> None:
    """From now on buffers of so many bytes and more are mapped one by one, and given back when they are freed.

    Logits and the widest layers' fit no other buffer's hole: kept, they leave holes that hold as much memory again
    (width 768, 2 layers, V 50,257: 1.38 GB at the fullest instead of 1.55 GB, in the same processor time). The smaller
    ones are many: mapped too, from 4 MiB on, they took 8 % of the lanes' time at width 1,536 (docs/streaming.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, n_bytes)
