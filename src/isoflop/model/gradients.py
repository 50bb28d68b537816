"""Where a model leaves its gradients."""

from typing import Protocol

from torch import Tensor


class Gradients(Protocol):
    """Receives the gradients of a microbatch, piece by piece, in any order and from any thread."""

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        """Adds to the flat buffer (layout of `Weights`) from `start` elements after the tensor `name` begins."""

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        """Adds the fp32 rows of `gradient` (n, d) to the rows `ids` (n) of the tensor `name`."""
