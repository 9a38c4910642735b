"""Where fetched files and converted models are kept, apart from the hub's own cache. It fetches nothing."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$KLOC_CACHE, or `kloc` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). It may not exist yet."""
    if named := os.environ.get("KLOC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kloc"
