"""torch's files of weights, which are pickles: read as tensors and plain data alone, without torch's warnings."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile


def unshared(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors, each in memory of its own: writers of weight files leave out one of two that share theirs, or refuse
    parts of one.
    """
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() > tensor.nbytes
        seen.add(storage.data_ptr())
        own[name] = tensor.clone() if shared else tensor
    return own


def load_tensors(path: Path) -> Any:
    """What such a file holds, on the processor, mapped where its format allows; nothing of it is run.

    Raises whatever the bytes of a damaged file lead to, including MemoryError. torch's warnings are for those who write
    such files, and would come before the one line that says what to do.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A file of torch's legacy format cannot be mapped: it is read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
