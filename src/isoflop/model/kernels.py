"""kernels.c, products.c and attention.c, called with tensors."""

import functools
from typing import Any

from torch import Tensor

from isoflop.compiled import Compiled, load_compiled

Kernels = Compiled


@functools.cache
def load_kernels() -> Kernels | None:
    """The kernels; None where this machine has no C compiler that works.

    Tensors go in as they are: contiguous, on the CPU; None is a null pointer.
    """
    return load_compiled("isoflop.model", "kernels", "products", "attention", address=_address)


def _address(argument: Any) -> Any:
    return argument.data_ptr() if isinstance(argument, Tensor) else argument
