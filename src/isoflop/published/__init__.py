"""Other people's models and measurements, with sources."""

from isoflop.published.models import PublishedModel, published_models
from isoflop.published.sets import PublishedSet, published_set, set_names

__all__ = ["PublishedModel", "PublishedSet", "published_models", "published_set", "set_names"]
