"""One process at a time works in a run directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isoflop.durable import cannot_write
from isoflop.errors import WorkError
from isoflop.pipeline.folder import RunFolder


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Holds the run directory, made if it is missing; if nothing came into it, it is gone again afterwards.

    The kernel holds the lock, not the file: a process that was killed leaves none behind.

    Raises:
        WorkError: another process works there, or the disk is full.
    """
    path = folder.path / "lock"
    made = missing_folders(folder.path)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except BaseException:
        remove_empty(made)
        raise
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        remove_empty(made)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                _sign(path, descriptor)
                return descriptor
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise WorkError(
                f"{path.parent}: process {pid} is at work here; wait for it, stop it, or use another --runs folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed the file while we opened it


def _sign(path: Path, descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def missing_folders(path: Path) -> list[Path]:
    """The folder and those above it that are not there yet, innermost first."""
    return [parent for parent in (path, *path.parents) if not parent.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Removes folders that this process made, innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
