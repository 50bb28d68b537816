"""What a trained model can do: its loss on held-out text, its answers to downstream tasks.

Names are fetched when they are asked for: making tasks of held-out text needs no PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoflop.evaluate.held_out import DomainLoss, HeldOutLoss, held_out_loss

__all__ = ["DomainLoss", "HeldOutLoss", "held_out_loss"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from isoflop.evaluate import held_out

    return getattr(held_out, name)
