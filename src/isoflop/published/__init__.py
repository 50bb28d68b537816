"""Other people's models and measurements, with sources."""

from isoflop.published.hardware import PublishedHardware, published_hardware, read_hardware
from isoflop.published.laws import PublishedLaw, published_law
from isoflop.published.models import PublishedModel, average_score, gpt2_tokens_per_byte, published_models, read_models
from isoflop.published.openness import Openness, published_openness
from isoflop.published.recipes import PublishedRecipe, published_recipes
from isoflop.published.scores import PublishedScore, published_scores
from isoflop.published.sets import PublishedSet, published_set, set_names
from isoflop.published.tasks import PublishedTask, published_tasks
from isoflop.published.texts import PublishedText, published_texts

__all__ = [
    "Openness",
    "PublishedHardware",
    "PublishedLaw",
    "PublishedModel",
    "PublishedRecipe",
    "PublishedScore",
    "PublishedSet",
    "PublishedTask",
    "PublishedText",
    "average_score",
    "gpt2_tokens_per_byte",
    "published_hardware",
    "published_law",
    "published_models",
    "published_openness",
    "published_recipes",
    "published_scores",
    "published_set",
    "published_tasks",
    "published_texts",
    "read_hardware",
    "read_models",
    "set_names",
]
