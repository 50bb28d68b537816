"""The file of a shard's state: safetensors, as a checkpoint holds it, laid out for direct I/O.

A header of one block, then weights and both moments, each from a block's beginning on (what fills up the block before
is a tensor too: the format knows no gaps). The header's metadata hold the shard's name, the step after which the state
was such, and of each tensor the CRC-32 of every window. Files that a resident run wrote are read as well: they have
none of these.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isoflop.streaming.checksum import as_bytes
from isoflop.streaming.pages import BLOCK, DamagedError, DirectFile, blocks

TENSORS = ("weights", "first_moment", "second_moment")
# Each tensor's checksums, in the order of the windows.
Checksums = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Layout:
    """Where in the file the tensors begin, and what the header says of them; None where it says nothing."""

    starts: dict[str, int]
    checksums: Checksums | None


def new_layout(elements: int) -> Layout:
    """The layout of a file that is to be written."""
    return Layout({name: BLOCK + i * blocks(4 * elements) for i, name in enumerate(TENSORS)}, None)


def file_bytes(elements: int) -> int:
    """Bytes of such a file."""
    return new_layout(elements).starts[TENSORS[-1]] + 4 * elements


def header(name: str, elements: int, step: int, checksums: Checksums) -> bytes:
    """The header block of the shard of that name."""
    metadata = {f"{tensor}.crc32": " ".join(map(str, checksums[tensor])) for tensor in TENSORS}
    document: dict[str, Any] = {"__metadata__": {"shard": name, "step": str(step), **metadata}}
    fill = blocks(4 * elements) - 4 * elements
    for tensor, start in new_layout(elements).starts.items():
        first = start - BLOCK
        document[tensor] = _entry("F32", elements, first, 4 * elements)
        if fill and tensor != TENSORS[-1]:
            document[f"{tensor}.fill"] = _entry("U8", fill, first + 4 * elements, fill)
    text = json.dumps(document, separators=(",", ":")).encode()
    return struct.pack("<Q", BLOCK - 8) + text.ljust(BLOCK - 8)


def read_layout(file: DirectFile, name: str, step: int, elements: int, windows: int, memory: Tensor) -> Layout:
    """The layout of a file that is there.

    Raises:
        DamagedError: it is not the whole file of that shard after that step, of so many elements and windows.
    """
    try:
        (length,) = struct.unpack("<Q", as_bytes(file.read(0, 8, memory)))
        text = bytes(as_bytes(file.read(8, min(length, 15 * BLOCK), memory)))
        document = json.loads(text)
        starts = {tensor: 8 + length + document[tensor]["data_offsets"][0] for tensor in TENSORS}
        shapes = {(document[tensor]["dtype"], *document[tensor]["shape"]) for tensor in TENSORS}
        checksums = None
        if length == BLOCK - 8:
            metadata = document["__metadata__"]
            checksums = {tensor: [int(one) for one in metadata[f"{tensor}.crc32"].split()] for tensor in TENSORS}
            if text != header(name, elements, step, checksums)[8:]:
                raise ValueError
            if any(len(each) != windows for each in checksums.values()):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(file.path, f"its header is not that of {name} after step {step}") from error
    if shapes != {("F32", elements)}:
        raise DamagedError(file.path, f"it does not hold {elements:,} elements of fp32")
    if file.size() < max(starts.values()) + 4 * elements:
        raise DamagedError(file.path, f"it ends after {file.size():,} bytes")
    return Layout(starts, checksums)


def _entry(dtype: str, elements: int, first: int, n_bytes: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [elements], "data_offsets": [first, first + n_bytes]}
