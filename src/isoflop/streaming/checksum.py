"""CRC-32 as zlib has it, three times as fast where the processor multiplies without carries."""

import ctypes
import functools
import zlib

import torch
from torch import Tensor

from isoflop.compiled import Compiled, load_compiled

# `fold` takes whole ones of these.
_BYTES = 64


def checksum(content: Tensor) -> int:
    """CRC-32 of the tensor's bytes, contiguous and on the CPU."""
    whole, folding = content.numel() * content.itemsize // _BYTES * _BYTES, _folding()
    block = ctypes.create_string_buffer(16)
    if not whole or folding is None or not folding.fold(whole, content.data_ptr(), block):
        return zlib.crc32(as_bytes(content))
    # From a state of zero on, which zlib calls so.
    return zlib.crc32(as_bytes(content)[whole:], zlib.crc32(block.raw, 0xFFFFFFFF))


def as_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes."""
    return memoryview(tensor.view(torch.uint8).numpy().data).cast("B")


@functools.cache
def _folding() -> Compiled | None:
    return load_compiled("isoflop.streaming", "checksum")
