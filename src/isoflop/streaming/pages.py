"""Memory in whole pages, and files that are read and written around the page cache."""

import ctypes
import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoflop.durable import cannot_write
from isoflop.errors import WorkError

# Offsets, lengths and addresses of direct I/O are multiples of the file system's block; no disk has a larger one.
BLOCK = 4096
# Memory is taken in pages so large where it can be. One that is given back in part comes back in small pages only.
HUGE = 2**21


class DamagedError(WorkError):
    """A file of the store is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        remedy = "run again to go on from the last step or checkpoint that is whole, or to hear that there is none"
        super().__init__(f"{path}: the store is damaged ({why}); {remedy}")
        self.path, self.why = path, why


def blocks(n_bytes: int) -> int:
    """`n_bytes`, rounded up to whole blocks."""
    return -(-n_bytes // BLOCK) * BLOCK


def pages(n_bytes: int, device: torch.device | None = None) -> Tensor:
    """Zeros, uint8 (blocks(n_bytes),), at a page's beginning; given back to the system with the last view of it.

    From HUGE bytes on they begin at a page of that size.

    Where `device` is a GPU it reads and writes them by itself: locked in memory at exactly this size, where PyTorch's
    own pinned memory takes the next power of two.

    Raises:
        WorkError: the system lets no more memory be locked.
    """
    size = max(BLOCK, blocks(n_bytes))
    spare = HUGE if size >= HUGE else 0  # addresses alone: memory is taken where it is written
    memory = _Locked(-1, size + spare, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    first = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE if spare else 0
    found = torch.frombuffer(memory, dtype=torch.uint8, offset=first, count=size)
    if device is not None and device.type == "cuda":
        memory.lock(found.data_ptr(), size)
    return found


def give_back(memory: Tensor) -> None:
    """Makes `memory` zeros; its whole pages go back to the system, and none is taken until it is written again."""
    raw = memory.view(torch.uint8)
    first, last = -raw.data_ptr() % mmap.PAGESIZE, len(raw) - (raw.data_ptr() + len(raw)) % mmap.PAGESIZE
    if sys.platform != "linux" or first >= last:  # elsewhere what is given back may still be there
        raw.zero_()
        return
    raw[:first].zero_()
    raw[last:].zero_()
    address, n_bytes = ctypes.c_void_p(raw.data_ptr() + first), ctypes.c_size_t(last - first)
    ctypes.CDLL(None).madvise(address, n_bytes, mmap.MADV_DONTNEED)


class _Locked(mmap.mmap):
    """Pages that may be locked for a GPU, and are unlocked before they are given back."""

    _address = 0
    _runtime: Any = None

    def lock(self, address: int, n_bytes: int) -> None:
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        # An error number; 0 is none.
        if int(runtime.cudaHostRegister(address, n_bytes, 0)):
            raise WorkError(f"cannot lock {n_bytes:,} bytes of memory for the GPU; raise `ulimit -l`")
        self._address, self._runtime = address, runtime

    def __del__(self) -> None:
        if self._runtime is not None:
            self._runtime.cudaHostUnregister(self._address)


class DirectFile:
    """A file around the page cache; where its file system cannot do that, what was cached is dropped again.

    `mode` is "read", "new", or "scratch" (created where it is not there, kept where it is).

    Raises:
        DamagedError: in any call, the file is shorter than what is read, or the disk cannot read it.
        WorkError: in any call, the disk is full or cannot be used.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        flags = {"read": os.O_RDONLY, "new": os.O_RDWR | os.O_CREAT | os.O_TRUNC, "scratch": os.O_RDWR | os.O_CREAT}
        direct = getattr(os, "O_DIRECT", 0)
        try:
            try:
                self._file = os.open(path, flags[mode] | direct, 0o644)
                self._cached = direct == 0
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._file = os.open(path, flags[mode], 0o644)
                self._cached = True
        except OSError as error:
            if mode == "read":
                raise WorkError(f"{path}: cannot read ({error.strerror})") from error
            raise cannot_write(path, error) from error

    def read(self, start: int, n_bytes: int, memory: Tensor) -> Tensor:
        """The bytes from `start` on as a view, uint8 (n_bytes,), of `memory`, which has room for two blocks more."""
        if self.size() < start + n_bytes:
            raise DamagedError(self.path, f"it ends after {self.size():,} bytes")
        first = start // BLOCK * BLOCK
        wanted = start + n_bytes - first
        room = _bytes_of(memory, blocks(wanted))
        done = 0
        while done < wanted:
            done = done // BLOCK * BLOCK
            try:
                got = os.preadv(self._file, [room[done:]], first + done)
            except OSError as error:
                raise DamagedError(self.path, f"cannot read: {error.strerror}") from error
            if got == 0:
                raise DamagedError(self.path, f"it ends after {self.size():,} bytes")
            done += got
        if self._cached:
            os.posix_fadvise(self._file, first, blocks(wanted), os.POSIX_FADV_DONTNEED)
        return memory[start - first : start - first + n_bytes]

    def write(self, start: int, content: Tensor) -> None:
        """Writes the bytes of `content` at `start`, whole blocks: what follows in its memory fills the last one."""
        room = _bytes_of(content, blocks(content.numel() * content.itemsize))
        done = 0
        try:
            while done < len(room):
                done += os.pwritev(self._file, [room[done:]], start + done)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file).st_size

    def finish(self, n_bytes: int | None = None) -> None:
        """Cut to `n_bytes`, where given; all that was written is on the disk when this returns."""
        try:
            if n_bytes is not None:
                os.ftruncate(self._file, n_bytes)
            os.fsync(self._file)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self._cached:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def reserve(self, n_bytes: int) -> None:
        """Takes the disk space for `n_bytes`, so that no later write fails for want of it."""
        try:
            if n_bytes:
                os.posix_fallocate(self._file, 0, blocks(n_bytes))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """No more of it; a second time is nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> "DirectFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _bytes_of(tensor: Tensor, n_bytes: int) -> memoryview:
    """The memory from the tensor's beginning on."""
    storage = tensor.untyped_storage()
    left = storage.nbytes() - tensor.storage_offset() * tensor.itemsize
    if n_bytes > left or tensor.data_ptr() % BLOCK:
        raise ValueError(f"direct I/O of {n_bytes} bytes at {tensor.data_ptr():#x}, where {left} bytes are")
    return memoryview((ctypes.c_char * n_bytes).from_address(tensor.data_ptr())).cast("B")
