"""Training one model: optimizer, loop, metrics, checkpoints."""

from isoflop.train.loop import Step, Trained, train

__all__ = ["Step", "Trained", "train"]
