"""Other people's models, with sources."""

from isoflop.published.models import PublishedModel, published_models

__all__ = ["PublishedModel", "published_models"]
