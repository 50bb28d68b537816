"""Other people's models and measurements, with sources."""

from isoflop.published.hardware import PublishedHardware, published_hardware, read_hardware
from isoflop.published.models import PublishedModel, published_models
from isoflop.published.recipes import PublishedRecipe, published_recipes
from isoflop.published.sets import PublishedSet, published_set, set_names
from isoflop.published.tasks import PublishedTask, published_tasks

__all__ = [
    "PublishedHardware",
    "PublishedModel",
    "PublishedRecipe",
    "PublishedSet",
    "PublishedTask",
    "published_hardware",
    "published_models",
    "published_recipes",
    "published_set",
    "published_tasks",
    "read_hardware",
    "set_names",
]
