"""What machine and which versions a run's numbers come from."""

import os
import platform
from importlib import metadata
from typing import Any

from artifact import __version__

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


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
