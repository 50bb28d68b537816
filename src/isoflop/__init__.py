"""isoflop."""
