"""Tensors of whole models that take no memory: the system keeps of their file what it has room for."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from isoflop.durable import cannot_write


def mapped(folder: Path, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros (count,) in a file in `folder` that has no name and goes with the last view of it.

    Raises:
        WorkError: the disk is full, or the folder cannot be written.
    """
    n_bytes = count * dtype.itemsize
    try:
        file, path = tempfile.mkstemp(prefix="mapped-", dir=folder)
        try:
            os.ftruncate(file, n_bytes)
            flat = torch.from_file(path, shared=True, size=count, dtype=dtype)
            os.unlink(path)  # before it takes its space: a kill leaves nothing
            os.posix_fallocate(file, 0, n_bytes)  # a page without space on the disk would end the process
        finally:
            os.close(file)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return flat
