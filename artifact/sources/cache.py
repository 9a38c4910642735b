"""Where fetched files and converted models are kept, apart from the hub's own cache. It fetches nothing."""

import os
from pathlib import Path

from artifact.sources.catalogue import HubModel, PlainSource


def cache_folder() -> Path:
    """$KLOC_CACHE, or `kloc` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). It may not exist yet."""
    if named := os.environ.get("KLOC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kloc"


def source_folder(source: PlainSource) -> Path:
    """Where a source's files and what is taken out of its archive stand."""
    return cache_folder() / source.name


def converted_folder(model: HubModel) -> Path:
    """Where a model whose weights are published as a pickle stands as safetensors, once converted."""
    return cache_folder() / "converted" / f"{model.name}-{model.revision[:8]}"


def converted_file(published: Path) -> Path:
    """Where the safetensors file that was made from a published .pt file stands: beside it."""
    return published.with_suffix(".safetensors")


def hub_file(model: HubModel, name: str) -> Path | None:
    """A file of the model in the hub's cache, at the pinned revision; None when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.repo, name, revision=model.revision)
    return Path(found) if isinstance(found, str) else None
