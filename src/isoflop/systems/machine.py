"""What this machine is, and how fast it multiplies matrices: measured once, kept in the user's cache folder."""

import contextlib
import hashlib
import json
import math
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING

from isoflop.cache import cache_folder
from isoflop.durable import write_json
from isoflop.errors import WorkError
from isoflop.recipe import Machine

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from torch import Tensor, dtype

# The largest is large enough for the full rate. A processor that emulates bf16 takes a minute for it: there the smaller
# ones tell.
SIDES = (256, 512, 1024, 2048)
SECONDS_PER_PRECISION = 0.4
GPU_SIDE, GPU_PRODUCTS = 8192, 10
BUSY_SECONDS = 600.0


def measure_machine() -> Machine:
    """This machine, with the best rate of a matrix product over 0.4 s in each precision; where PyTorch is not
    installed, NumPy's in fp32 stands for both.

    The product is 2,048-sided, or the largest of `SIDES` that fits that time.

    The measurement is kept a file a (processor, cores, PyTorch, GPUs) in the cache folder and is not made again there;
    one that was made while others worked (`_busy`) counts for ten minutes.
    """
    kept = cache_folder() / f"machine-{_key()}.json"
    try:
        document = json.loads(kept.read_bytes())
        recent = time() - kept.stat().st_mtime < BUSY_SECONDS
        counts = not document.pop("busy", False) or recent
        machine = Machine.from_json(document)
        if counts and machine.host_memory_bytes:
            return machine
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    busy = _busy()
    machine = _measure()
    # Without a cache the next command measures again: slower by a second, and right.
    with contextlib.suppress(WorkError, OSError):
        write_json(kept, {**machine.to_json(), "busy": busy})
    return machine


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy() -> bool:
    """Whether more than half a process a core ran over the last minute: a rate among them is no rate of the machine."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    except (AttributeError, OSError):
        return False


def _measure() -> Machine:
    try:
        import torch
    except ImportError:
        import numpy as np

        rate = _matrix_rate(np.random.default_rng(0).standard_normal((SIDES[-1], SIDES[-1]), np.float32))
        return _processor("none", rate, rate)
    if torch.cuda.is_available():
        return _measure_gpu()
    before = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    square = torch.randn(SIDES[-1], SIDES[-1])
    bf16, fp32 = (_matrix_rate(square.to(dtype)) for dtype in (torch.bfloat16, torch.float32))
    torch.set_num_threads(before)
    return _processor(torch.__version__, bf16, fp32)


def _processor(torch_version: str, bf16_flops_per_second: float, fp32_flops_per_second: float) -> Machine:
    cores = available_cores()
    return Machine(
        processor=processor_name(),
        cores=cores,
        threads=cores,
        memory_bytes=_host_memory_bytes(),
        torch=torch_version,
        device="cpu",
        bf16_flops_per_second=bf16_flops_per_second,
        fp32_flops_per_second=fp32_flops_per_second,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        host_memory_bytes=_host_memory_bytes(),
    )


def _host_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _measure_gpu() -> Machine:
    import torch

    from isoflop.systems.device import choose_workspace

    choose_workspace()
    device = torch.device("cuda", 0)
    properties = torch.cuda.get_device_properties(device)
    cores = available_cores()
    return Machine(
        processor=properties.name,
        cores=cores,
        threads=cores,
        memory_bytes=properties.total_memory,
        torch=torch.__version__,
        device="cuda",
        bf16_flops_per_second=_gpu_rate(torch.bfloat16),
        fp32_flops_per_second=_gpu_rate(torch.float32),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        host_memory_bytes=_host_memory_bytes(),
    )


def _gpu_rate(dtype: "dtype") -> float:
    """FLOP/s of a product, the best of several runs."""
    import torch

    a = torch.randn(GPU_SIDE, GPU_SIDE, device="cuda", dtype=dtype)
    best = math.inf
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(GPU_PRODUCTS):
            a @ a
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / GPU_PRODUCTS)
    return 2 * GPU_SIDE**3 / best


def _matrix_rate(square: "Tensor | NDArray[float32]") -> float:
    """FLOP/s of the largest product that fits the time, the best of several: other programs only ever slow one down."""
    end = perf_counter() + SECONDS_PER_PRECISION
    for side in SIDES:
        a = square[:side, :side] * 1  # a copy that lies as a matrix of its own
        a @ a
        best = _seconds(a)
        # The next side takes eight times as long, and has to be warmed up as well.
        if perf_counter() + 16 * best > end:
            break
    while perf_counter() + best < end:
        best = min(best, _seconds(a))
    return float(2 * side**3 / best)


def _seconds(a: "Tensor | NDArray[float32]") -> float:
    start = perf_counter()
    a @ a
    return perf_counter() - start


def _key() -> str:
    gpus = ",".join(sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*")))
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    text = f"{processor_name()}|{available_cores()}|{torch_version}|{gpus}|{visible}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
