"""Other people's models and measurements, with sources."""

from isoflop.published.hardware import PublishedHardware, published_hardware, read_hardware
from isoflop.published.models import PublishedModel, published_models
from isoflop.published.recipes import PublishedRecipe, published_recipes
from isoflop.published.sets import PublishedSet, published_set, set_names

__all__ = [
    "PublishedHardware",
    "PublishedModel",
    "PublishedRecipe",
    "PublishedSet",
    "published_hardware",
    "published_models",
    "published_recipes",
    "published_set",
    "read_hardware",
    "set_names",
]
