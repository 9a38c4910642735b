"""Arrays in npz files: read with no more memory than the file has bytes, written one at a time, nothing unpickled."""

from collections.abc import Iterable
from math import prod
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from torch import Tensor

from artifact.errors import RunError
from artifact.io import replacing
from artifact.sources.kinds import DAMAGED_ARCHIVE

UNREADABLE = (*DAMAGED_ARCHIVE, TypeError, KeyError)
"""What opening an archive and reading its arrays can raise where the file is damaged, encrypted, or of another kind."""


def read_array(archive: ZipFile, name: str, most: int | None = None) -> np.ndarray:
    """One array of an npz file of at most `most` bytes, its checksum verified; one of UNREADABLE where it cannot be."""
    shape, dtype = array_form(archive, name)
    size = archive.getinfo(f"{name}.npy").file_size
    # What a header claims is asked of memory at once.
    if not 0 <= size - prod(shape) * dtype.itemsize <= _HEADER_BYTES or (most is not None and size > most):
        raise ValueError(f"{name} has {size} bytes, which do not fit its shape {shape}")
    with archive.open(f"{name}.npy") as entry:
        return np.lib.format.read_array(entry, allow_pickle=False)


def array_form(archive: ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of an npz file by its header; one of UNREADABLE where it cannot be read."""
    with archive.open(f"{name}.npy") as entry:
        version = np.lib.format.read_magic(entry)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, _, dtype = read(entry)
        except MemoryError:  # of Python's parser, which a header of 10,000 signs overflows
            raise ValueError(f"the header of {name} is nested too deeply") from None
    return shape, dtype


_HEADER_BYTES = 20_000
"""Most bytes of an array's header; numpy refuses longer ones."""


def write_arrays(path: Path, content: Iterable[tuple[str, object]], comment: str = "") -> None:
    """An npz file, written array by array: tensors come off their device one at a time. Same content, same bytes.

    A reader, or a killed process, finds the old file or the new one. Raises RunError when it cannot be written.
    """
    try:
        with replacing(path) as part, ZipFile(part, "w") as archive:
            archive.comment = comment.encode()
            for name, value in content:
                array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); make room, or name another folder") from None
