"""One Hugging Face folder a model: weights, tokenizer, card, licence, and what repeats the run."""

from isoflop.release.card import Card, Change, Foretold, Measured, SavedStep, Scored, Spike
from isoflop.release.folder import release_model, released

__all__ = ["Card", "Change", "Foretold", "Measured", "SavedStep", "Scored", "Spike", "release_model", "released"]
