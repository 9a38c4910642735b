"""Where fetched files and converted models are kept, and the hub's own cache.

A folder or an address in the environment that cannot be used is refused here, in one line, before anything else is
tried with it.
"""

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from artifact.errors import SettingError
from artifact.io import reason
from artifact.sources.catalogue import HubModel, PlainSource

_LONGEST = 3500
"""Most bytes of a cache folder's path: with the names below it, a path has at most 4096."""


def cache_folder() -> Path:
    """$KLOC_CACHE, or `kloc` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). It may not exist yet.

    Raises SettingError for a path that is too long, cannot be looked at, or is not a folder.
    """
    if named := os.environ.get("KLOC_CACHE"):
        return _usable(Path(named), "KLOC_CACHE")
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # as in a job of a user that the machine does not know
        raise SettingError("no home folder is known, in which to cache; set KLOC_CACHE to a folder") from None
    return _usable(folder / "kloc", "KLOC_CACHE")


def hub_cache() -> Path:
    """The hub's own cache (HF_HUB_CACHE, or `hub` in HF_HOME). Raises SettingError as `cache_folder` does."""
    check_endpoint()  # first, since an address can be so bad that importing the hub's client fails
    from huggingface_hub import constants

    return _usable(Path(constants.HF_HUB_CACHE), "HF_HOME")


def check_endpoint() -> None:
    """Raise SettingError when HF_ENDPOINT is not the address of a host."""
    given = os.environ.get("HF_ENDPOINT")
    if given is not None and not is_address(given):
        raise SettingError(
            f"HF_ENDPOINT={given[:80]!r} is not an address; set it to one that begins with https://, or unset it"
        )


def check_endpoint_is_readable() -> None:
    """Raise SettingError for an HF_ENDPOINT with which the hub's client cannot even be imported, as models need it."""
    try:
        _ = urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname
    except ValueError:
        check_endpoint()


def is_address(text: str) -> bool:
    """Whether it is the address of a host by http or https."""
    try:
        parts = urlsplit(text)
        plain = text.isascii() and text.isprintable() and " " not in text
        return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _usable(folder: Path, setting: str) -> Path:
    """`folder`, when it is one or can become one."""
    shown = str(folder) if len(str(folder)) <= 120 else f"{str(folder)[:120]}..."
    try:
        if len(os.fsencode(folder)) > _LONGEST:
            why = f"is longer than {_LONGEST} bytes"
        elif stat.S_ISDIR(folder.stat().st_mode):
            return folder
        else:
            why = "is not a folder"
    except FileNotFoundError:
        if not folder.is_symlink():
            return folder
        why = "is a link to nothing"
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        why = f"cannot be used ({reason(error)})"
    raise SettingError(f"{shown!r}: {why}; set {setting} to a folder of your own")


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
    folder = hub_cache()
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model.repo, name, cache_dir=folder, revision=model.revision)
    return Path(path) if isinstance(path, str) else None
