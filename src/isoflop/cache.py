"""Where measurements and built code are kept between runs; losing it costs seconds, never results."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """This project's folder in the user's cache; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "isoflop"
