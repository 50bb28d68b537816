"""Files of named tensors: looked at without reading them, then read one tensor at a time."""

import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isoflop.errors import InputError

PREFIX = "transformer."
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class TensorFile(Protocol):
    """Tensors by their full GPT-2 names, whether or not the file writes the prefix `transformer.`."""

    path: Path

    def names(self) -> list[str]:
        """The names of its tensors."""

    def size(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def dtype(self, name: str) -> "torch.dtype | str":
        """The type of its elements, as text where PyTorch's name for it is not at hand."""

    def tensor(self, name: str) -> Tensor:
        """The tensor itself."""


def open_safetensors(path: Path) -> TensorFile:
    """A .safetensors file; the library checks its header.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return _Safetensors(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def open_pickled(path: Path) -> TensorFile:
    """A file of torch.save, read for weights alone: a pickle that wants to run anything is refused.

    Raises:
        InputError: it is missing, damaged, or holds anything but named tensors.
    """
    try:
        # What PyTorch warns of (old pickle protocols, sparse tensors) is read all the same or refused below.
        with warnings.catch_warnings(action="ignore"):
            # Only the zip format, PyTorch's own since 1.6, can be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        # PyTorch's own words advise to load it without this guard.
        raise InputError(
            f"{path}: not read: it is damaged, or asks for code to be run, which is refused; give safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        raise InputError(f"{path}: holds something else than named tensors")
    for name, tensor in loaded.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise InputError(f"{path}: tensor {name} is sparse or without its numbers; give dense ones")
    return _Pickled(path, {full: loaded[name] for full, name in _by_full_name(path, loaded).items()})


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = safe_open(path, framework="pt")
        names = self._file.keys()  # type: ignore[no-untyped-call]
        self._stored = _by_full_name(path, names)

    def names(self) -> list[str]:
        return list(self._stored)

    def size(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self._stored[name]).get_shape())

    def dtype(self, name: str) -> "torch.dtype | str":
        stored: str = self._file.get_slice(self._stored[name]).get_dtype()
        return _DTYPES.get(stored, stored)

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(self._stored[name])
        return tensor


class _Pickled:
    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path = path
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def size(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> "torch.dtype | str":
        return self._tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]


def _by_full_name(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The stored name of each tensor by its full one."""
    found: dict[str, str] = {}
    for name in names:
        full = name if name.startswith((PREFIX, "lm_head.")) else PREFIX + name
        if full in found:
            raise InputError(f"{path}: tensor {full} is there twice, as {found[full]} and {name}")
        found[full] = name
    return found


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError) or not path.exists():
        return InputError(f"{path}: missing; the download is incomplete, fetch it again")
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return InputError(f"{path}: not read ({reason}); it is damaged or not a file of weights")
