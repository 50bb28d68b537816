"""One Hugging Face folder a model: weights, tokenizer, card, licence, and what repeats the run."""

from isoflop.release.card import Card, Foretold, Measured, SavedStep, Scored
from isoflop.release.folder import release_model, released

__all__ = ["Card", "Foretold", "Measured", "SavedStep", "Scored", "release_model", "released"]
