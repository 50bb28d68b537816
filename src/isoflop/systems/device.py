"""The device that a system computes on: a GPU where PyTorch sees one, else the processor."""

import os

import torch


def training_device(number: int = 0) -> torch.device:
    """The device of the system of that number on this machine.

    On a GPU, from here on only kernels that give the same bits again: PyTorch refuses others.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    choose_workspace()
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def choose_workspace() -> None:
    """Has cuBLAS add in the same order at every call.

    PyTorch looks at the variable once, at the process's first matrix product on a GPU: where it is missing then, every
    later product is refused as not deterministic.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def gpu_uuid(device: torch.device) -> str | None:
    """How the driver names a GPU, whichever of them this process may see; None for a processor."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def device_count() -> int | None:
    """How many systems this machine has devices for; None on a processor, whose cores systems share."""
    return torch.cuda.device_count() if torch.cuda.is_available() else None


def begin_thread(device: torch.device) -> None:
    """The calling thread computes on one core, and what it asks of a GPU is for that one."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
