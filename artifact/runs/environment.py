"""What machine and which versions a run's numbers come from."""

import os
import platform
from importlib import metadata
from typing import Any, TypedDict

import msgspec

from artifact import __version__

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


class _Seconds(TypedDict):
    most: float
    expected: float


class _Read(TypedDict, total=False):
    """What is read of an environment in a journal, which may hold more; `rehearsed` is rehearsed.py's."""

    packages: dict[str, str]
    rehearsed: _Seconds


def stored_environments(text: str) -> list[dict[str, Any]]:
    """The environments of a journal; msgspec's errors where they are damaged."""
    msgspec.json.decode(text, type=list[_Read])
    return msgspec.json.decode(text, type=list[dict[str, Any]])


def environment(device: str) -> dict[str, Any]:
    """Versions, processor, device and thread count, as plain JSON."""
    import torch

    here: dict[str, Any] = {
        "kloc-artifact": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
    if device.startswith("cuda"):
        here["gpu"] = torch.cuda.get_device_name(device)
        here["cuda"] = torch.version.cuda
    return here
