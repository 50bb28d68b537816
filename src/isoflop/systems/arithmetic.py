"""What the bits of a system depend on beside the program; compared before systems train together."""

import os

import torch

from isoflop.compiled import Compiled

# Each lets a library choose other kernels than the processor would.
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "OPENBLAS_CORETYPE",
    "NVIDIA_TF32_OVERRIDE",
)


def torch_version() -> str:
    """PyTorch's version with the build it is, as in 2.9.0+cu128."""
    return str(torch.__version__)


def arithmetic_of(kernels: Compiled | None) -> dict[str, str]:
    """By name, what must be alike for the same bits: kernels as built, instruction sets, limits on them, the device.

    `kernels` are those that this system trains with.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    return {
        # Source, compiler, its options and the processor's flags have one hash.
        "the build of the kernels (compiler or processor's instructions)": kernels.library.stem if kernels else "none",
        "PyTorch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "the limits on instructions in the environment": ", ".join(limits) or "none",
        "the device": device,
    }
