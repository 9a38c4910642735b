"""safetensors files of edits and networks: written in one step, same content, same bytes; read with nothing trusted."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from artifact.errors import RunError
from artifact.io import open_regular, reason, write_atomically
from artifact.reading import name_given_twice

_HEADER_LIMIT = 10_000_000


def replace_file(out: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside `out` and put it in its place; RunError when the folder cannot be written."""
    from safetensors.torch import save

    host = {key: tensor.cpu() for key, tensor in tensors.items()}
    try:
        write_atomically(out, _in_order(save(host, metadata=dict(metadata))))
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror}); name a file in a folder you own") from None


def _in_order(content: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted: the library writes them in another order each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; OSError or ValueError when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    _refuse_twice(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    # The library has no error for a type that torch does not have.
    except (TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(reason(error)) from None


def _refuse_twice(path: Path) -> None:
    """Raise ValueError where the header names a tensor twice: the library would take the last in silence."""
    with open_regular(path) as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(size, _HEADER_LIMIT))
    if len(header) < size:
        raise ValueError(f"its header of {size} bytes is cut off or too large")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if (twin := name_given_twice(pairs)) is not None:
            raise ValueError(f"its header names {twin[:80]!r} twice")
        return dict(pairs)

    try:
        json.loads(header, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
