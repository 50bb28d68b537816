"""Other people's models, with sources."""

from isoflop.published.models import PublishedModel, published_models
from isoflop.published.recipes import PublishedRecipe, published_recipes

__all__ = ["PublishedModel", "PublishedRecipe", "published_models", "published_recipes"]
