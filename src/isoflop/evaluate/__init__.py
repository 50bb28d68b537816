"""What a trained model can do: its loss on held-out text."""

from isoflop.evaluate.held_out import HeldOutLoss, held_out_loss

__all__ = ["HeldOutLoss", "held_out_loss"]
