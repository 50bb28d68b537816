"""What a trained model can do: its loss on held-out text."""

from isoflop.evaluate.held_out import DomainLoss, HeldOutLoss, held_out_loss

__all__ = ["DomainLoss", "HeldOutLoss", "held_out_loss"]
