"""The file of a shard's state: safetensors, as a checkpoint holds it, laid out for direct I/O.

A header of one block, then weights and both moments, each from a block's beginning on (what fills up the block before
is a tensor too: the format knows no gaps). The header's metadata hold the step after which the state was such, and a
CRC-32 of each tensor. Files that a resident run wrote are read as well: they have neither.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoflop.streaming.pages import BLOCK, DamagedError, DirectFile, blocks

TENSORS = ("weights", "first_moment", "second_moment")


class Checksum:
    """CRC-32 over what is given piece by piece."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, content: Tensor) -> None:
        """The next piece."""
        self.value = zlib.crc32(as_bytes(content), self.value)


@dataclass(frozen=True)
class Layout:
    """Where in the file the tensors begin, and what the header says of them; None where it says nothing."""

    starts: dict[str, int]
    step: int | None
    checksums: dict[str, int] | None


def new_layout(elements: int) -> Layout:
    """The layout of a file that is to be written."""
    return Layout({name: BLOCK + i * blocks(4 * elements) for i, name in enumerate(TENSORS)}, None, None)


def file_bytes(elements: int) -> int:
    """Bytes of such a file."""
    return new_layout(elements).starts[TENSORS[-1]] + 4 * elements


def header(elements: int, step: int, checksums: dict[str, int]) -> bytes:
    """The header block."""
    document: dict[str, Any] = {
        "__metadata__": {"step": str(step), **{f"{name}.crc32": str(value) for name, value in checksums.items()}}
    }
    fill = blocks(4 * elements) - 4 * elements
    for name, start in new_layout(elements).starts.items():
        first = start - BLOCK
        document[name] = _entry("F32", elements, first, 4 * elements)
        if fill and name != TENSORS[-1]:
            document[f"{name}.fill"] = _entry("U8", fill, first + 4 * elements, fill)
    text = json.dumps(document).encode()
    return struct.pack("<Q", BLOCK - 8) + text.ljust(BLOCK - 8)


def read_layout(file: DirectFile, elements: int, memory: Tensor) -> Layout:
    """The layout of a file that is there.

    Raises:
        DamagedError: it is not the whole file of a shard of so many elements.
    """
    try:
        (length,) = struct.unpack("<Q", as_bytes(file.read(0, 8, memory)))
        text = bytes(as_bytes(file.read(8, min(length, 15 * BLOCK), memory)))
        document = json.loads(text)
        metadata = document.get("__metadata__", {})
        starts = {name: 8 + length + document[name]["data_offsets"][0] for name in TENSORS}
        shapes = {(document[name]["dtype"], *document[name]["shape"]) for name in TENSORS}
        step = int(metadata["step"]) if "step" in metadata else None
        checksums = {name: int(metadata[f"{name}.crc32"]) for name in TENSORS} if step is not None else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(file, "its header cannot be read") from error
    if length == BLOCK - 8 and (checksums is None or text != header(elements, step or 0, checksums)[8:]):
        raise damaged(file, "its header is not what was written")
    if shapes != {("F32", elements)}:
        raise damaged(file, f"it does not hold {elements:,} elements of fp32")
    if file.size() < max(starts.values()) + 4 * elements:
        raise damaged(file, "it was cut off")
    return Layout(starts, step, checksums)


def damaged(file: DirectFile, why: str) -> DamagedError:
    """What to raise of a file whose content is not what was written."""
    return DamagedError(file.path, why)


def as_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes."""
    return memoryview(tensor.view(torch.uint8).numpy().data).cast("B")


def _entry(dtype: str, elements: int, first: int, n_bytes: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [elements], "data_offsets": [first, first + n_bytes]}
