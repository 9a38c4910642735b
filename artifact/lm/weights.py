"""Weights from a model folder straight to the device: one tensor at a time, by the names and shapes that are expected.

Covers safetensors and torch's .bin files read as tensors alone, each whole or in shards, names with and without the
family's prefix, and the checks that make a wrong number impossible: every tensor that is missing, not expected, of
another shape or type, or not finite is an error. A model's family says which tensors it has (families/).

A file is mapped, not read into memory, so the weights are in host memory once, or not at all for a GPU (torch's legacy
pickles cannot be mapped).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from artifact.errors import ModelError
from artifact.io import reason
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import Sizes
from artifact.lm.folder import read_object
from artifact.sizes import dtype_word
from artifact.sources.pickles import load_tensors
from artifact.terminal import short, shown

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the preferred one first; each may be cut into shards, which an index names."""
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = frozenset(_TYPES.values())
_NAMED = 3
"""Tensors that a message names."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored, not read yet: shape, type in words, and the function that gives it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder's weight files by name, from the files' headers.

    Raises ModelError when there are no weights, a shard is missing or outside the folder, a file is damaged, and when a
    .bin file holds more than tensors.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            return _opened(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded(folder, index)
    raise ModelError(f"{folder}: holds no weights; expected {' or '.join(WHOLE)}, or the index of its shards")


def _sharded(folder: Path, index: Path) -> dict[str, Stored]:
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise ModelError(f"{index}: has no weight_map; expected one from tensor names to files")
    tensors: dict[str, Stored] = {}
    for file in dict.fromkeys(listed.values()):
        parts = PurePosixPath(file).parts
        if not file.isprintable() or not parts or ".." in parts or PurePosixPath(file).is_absolute() or "\\" in file:
            raise ModelError(f"{index}: names the file {_said(file)}, which is not inside the folder")
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: {_said(file)}, which {index.name} names, is missing; add it")
        shard = _opened(folder / file)
        if twice := shard.keys() & tensors.keys():
            raise ModelError(f"{folder}: {_names(sorted(twice))} in two of the files that {index.name} names")
        tensors |= shard
    if lost := [name for name in listed if name not in tensors]:
        raise ModelError(f"{folder}: {_names(lost)} named by {index.name}, and in none of its files")
    return tensors


def _opened(path: Path) -> dict[str, Stored]:
    try:
        return _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    except ModelError:
        raise
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ModelError(
            f"{path}: cannot be read as weights ({reason(error)}); replace the file by a whole one"
        ) from None


def _safetensors(path: Path) -> dict[str, Stored]:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    tensors = {}
    for name in file.keys():  # noqa: SIM118  (not a mapping)
        part = file.get_slice(name)
        kind = part.get_dtype()
        tensors[name] = Stored(tuple(part.get_shape()), _TYPES.get(kind, kind), partial(file.get_tensor, name))
    return tensors


def _pickled(path: Path) -> dict[str, Stored]:
    """Of a .bin file, read as tensors alone."""
    given = load_tensors(path)
    if not isinstance(given, Mapping):
        raise ModelError(f"{path}: holds no tensors by name; expected a dictionary of tensors alone")
    tensors = {}
    for name, tensor in given.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelError(f"{path}: {_said(str(name))} is not a tensor; expected a dictionary of tensors alone")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise ModelError(f"{path}: {_said(name)} is not stored whole; expected plain, dense tensors")
        dtype = dtype_word(tensor.dtype)
        tensors[name] = Stored(tuple(tensor.shape), dtype, tensor.detach)
    return tensors


def matched(family: Base, sizes: Sizes, stored: Mapping[str, Stored], where: str) -> dict[str, Stored]:
    """The tensors that the model is made of, by transformers' names; causal masks and the like are left out.

    Names may be without the family's prefix (`h.0...` for `transformer.h.0...`), then all of them. Raises ModelError
    naming the first tensors that are missing, not expected, of another shape, or not of floating point.
    """
    prefix = family.blocks.partition(".")[0] + "."
    bare = not any(name.startswith(prefix) for name in stored)
    head = f"{family.head}.weight"
    expected = family.tensors(sizes)

    def usual(name: str) -> str:
        for older, today in family.renamed.items():
            name = name.removesuffix(older) + today if name.endswith(older) else name
        first, dot, rest = name.partition(".")
        if first in (family.head, family.also_head):
            return f"{family.head}{dot}{rest}"
        return prefix + name if bare else name

    given = {usual(name): name for name in stored}
    if head in given or not sizes.tied:
        expected[head] = (sizes.vocabulary, sizes.width)
    extra = [given[name] for name in given if name not in expected and not family.buffers.fullmatch(name)]
    missing = [name for name in expected if name not in given]
    if missing or extra:
        words = [f"{_names(missing)} missing from its files"] if missing else []
        words += [f"{_names(extra)} not expected"] if extra else []
        raise ModelError(
            f"{where}: {'; '.join(words)}; expected the tensors of a {family.model_type} model with "
            f"{sizes.layers} layers, as {where}'s configuration says"
        )
    tensors = {name: stored[given[name]] for name in expected}
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise ModelError(
                f"{where}: {_said(given[name])} has the shape {tensor.shape}, and its configuration says "
                f"{expected[name]}; give the configuration that came with the weights"
            )
        if tensor.dtype not in _FLOATS:
            raise ModelError(
                f"{where}: {_said(given[name])} is of type {_said(tensor.dtype)}; expected {', '.join(sorted(_FLOATS))}"
            )
    return tensors


def entries(family: Base, sizes: Sizes) -> int:
    """Entries of all tensors of a model, by its configuration alone; its output layer counted where it is its own."""
    head = 0 if sizes.tied else sizes.vocabulary * sizes.width
    return head + sum(prod(shape) for shape in family.tensors(sizes).values())


def size_of(stored: Iterable[Stored], dtype: torch.dtype) -> int:
    """Bytes that the tensors take in a type."""
    return dtype.itemsize * sum(prod(tensor.shape) for tensor in stored)


def placed(
    tensors: Mapping[str, Stored], family: Base, cards: Sequence[str], dtype: torch.dtype, where: str
) -> dict[str, Tensor]:
    """The tensors in the type asked for; a head that equals the embedding is left out.

    `cards`: the device of the embedding and the head, then of each block.

    Raises ModelError for a value that is NaN or infinite, in the file or after the cast.
    """
    weights: dict[str, Tensor] = {}
    block = re.compile(rf"{re.escape(family.blocks)}\.(\d+)\.")
    for name, stored in tensors.items():
        try:
            given = stored.read()
        except Exception as error:
            raise ModelError(f"{where}: {name} cannot be read ({reason(error)}); replace the file") from None
        # A copy of its own: a mapped tensor would change with the file.
        device = cards[1 + int(of_block[1])] if (of_block := block.match(name)) else cards[0]
        weight = torch.empty(stored.shape, dtype=dtype, device=device).copy_(given)
        if not _finite(weight):
            cast = f"too large for {str(dtype).removeprefix('torch.')}" if _finite(given) else "NaN or infinite"
            raise ModelError(f"{where}: {name} holds values that are {cast}; give a model whose weights are finite")
        weights[name] = weight
    return untied(weights, family)


def untied(weights: dict[str, Tensor], family: Base) -> dict[str, Tensor]:
    """The weights without a head that equals the embedding."""
    head, embedding = weights.get(f"{family.head}.weight"), weights[f"{family.embedding}.weight"]
    if head is not None and torch.equal(head, embedding):
        return {name: weight for name, weight in weights.items() if name != f"{family.head}.weight"}
    return weights


def _finite(tensor: Tensor) -> bool:
    return all(bool(edge.isfinite()) for edge in tensor.aminmax())  # NaN comes through as both


def _names(names: Sequence[str]) -> str:
    """The first names, and how many there are besides; ends in is or are."""
    first = ", ".join(_said(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{first}{more} {'is' if len(names) == 1 else 'are'}"


def _said(name: str) -> str:
    """A name from a file, short and in one line."""
    return short(shown(name), 100)
