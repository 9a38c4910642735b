"""MEND's weight files: the published pickles, read without running them, and our own safetensors.

Covers .pt files in the published layout ({"model": state dict with keys "mend.(I, O)..." or "gtn.(I, O)...", ...}),
.npz files of the same keys without that prefix, .safetensors files written here, and the conversion of the first into
the last. Shape letters as in mend.py.

A published file names foreign classes (a transformers configuration, omegaconf nodes). Every one of them is replaced by
an inert stand-in, so that no foreign code is imported or run; tensors alone are taken.
"""

import hashlib
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from artifact.editing import made_for
from artifact.editing.mend_network import LowRankLayer, Network, Transform
from artifact.editing.npz import UNREADABLE, read_array
from artifact.editing.tensor_file import read_file, replace_file
from artifact.errors import RunError, SettingError
from artifact.io import reason, sha256_of
from artifact.sources.pickles import load_tensors

_PREFIXES = ("mend.", "gtn.")
_KEPT_FULL = ("_mean", "_std", "edit_lrs", "pad_embedding")
"""Endings of what stays float32 in a float16 file: a gradient's spread is below what float16 can hold."""
_KEY = re.compile(r"\(([0-9]{1,9}), ([0-9]{1,9})\)\.(.+)")
_UNUSED = (".u_s", ".v_s", ".k")
"""Endings of the sums that normalisation was computed from; nothing reads them."""
_WHOLE = "give a whole file"
_OTHERS = ("edit_lrs", "pad_embedding")
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class _StandIn:
    """Stands in for any foreign class or function of a pickle: accepts everything, does nothing."""

    def __new__(cls, *given: object, **named: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *given: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dict(*given: object) -> OrderedDict[object, object]:
    """Stands in for dictionaries with a default, which torch fills but does not make."""
    return OrderedDict()


def read_network(path: Path) -> Network:
    """The network in a file: .npz and .pt in the published layout, .safetensors written here.

    A published network without its [PAD] row gets the mean of the embedding's rows, as the published code sets it.
    Raises SettingError for a file that is missing, damaged, or holds no whole network, RunError for one that does not
    fit the computer's memory.
    """
    if path.exists() and not path.is_file():
        raise SettingError(f"{path}: is not a regular file; give a .safetensors, .pt or .npz file")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        source = metadata.get("source") or f"file {path.name}"
        network = network_of(_full(path, tensors), source, metadata.get("pad_row") == "mean")
        return replace(network, weights_sha256=made_for.hash_in(str(path), metadata))
    if path.suffix == ".npz":
        return network_of(_full(path, _read_npz(path)), f"file {path.name}", pad_is_mean=True)
    if path.suffix == ".pt":
        return network_of(_full(path, _read_pickle(path)), f"published file {path.name}", pad_is_mean=True)
    raise SettingError(f"{path}: is not a MEND network by its ending; give a .safetensors, .pt or .npz file")


def network_of(tensors: Mapping[str, Tensor], source: str, pad_is_mean: bool = False) -> Network:
    """The network of published keys, such as "(6400, 1600).mlp.layers.0.u" and "edit_lrs"; others are ignored.

    Raises SettingError when a key is missing, a shape does not fit its key, or an entry is not finite.
    """
    if "edit_lrs" not in tensors:
        raise SettingError(f"{source}: no edit_lrs in it; expected MEND's learned step sizes; give a MEND network")
    shapes = sorted({(int(m[1]), int(m[2])) for key in tensors if (m := _KEY.fullmatch(key))})
    if not shapes:
        raise SettingError(
            f"{source}: no weight shape such as (6400, 1600) among its keys; give MEND's weights, or a network "
            "written by kloc mend-train"
        )
    transforms = {shape: _transform(tensors, shape, source) for shape in shapes}
    pad_D = tensors.get("pad_embedding")
    for key, row in (("edit_lrs", tensors["edit_lrs"]), ("pad_embedding", pad_D)):
        if row is not None and (row.dim() != 1 or not bool(row.isfinite().all())):
            raise SettingError(
                f"{source}: {key} must be one row of finite numbers, got shape {tuple(row.shape)}; give another file"
            )
    return Network(transforms, tensors["edit_lrs"], pad_D, source, pad_is_mean and pad_D is None)


def tensors_of(network: Network) -> dict[str, Tensor]:
    """The network by published keys, as `network_of` reads it."""
    tensors: dict[str, Tensor] = {}
    for (inputs, outputs), transform in network.transforms.items():
        key = f"({inputs}, {outputs})"
        tensors |= {f"{key}.u_mean": transform.u_mean_I, f"{key}.u_std": transform.u_std_I}
        tensors |= {f"{key}.v_mean": transform.v_mean_O, f"{key}.v_std": transform.v_std_O}
        for number, layer in enumerate(transform.layers):
            place = f"{key}.mlp.layers.{number}"
            tensors |= {f"{place}.u": layer.u_ER, f"{place}.v": layer.v_RE, f"{place}.bias": layer.bias_E}
            tensors |= {f"{place}.mode_shift.weight": layer.shift_SE, f"{place}.mode_scale.weight": layer.scale_SE}
    tensors["edit_lrs"] = network.edit_lrs
    if network.pad_embedding is not None:
        tensors["pad_embedding"] = network.pad_embedding
    return tensors


def convert(path_pt: Path, out: Path) -> dict[str, str]:
    """Write a published .pt file as safetensors, once and for all; returns the metadata.

    It holds sha256 of the published file (source_sha256) and of the tensors (tensors_sha256, checked when read).
    Raises SettingError as `read_network` does.
    """
    network = read_network(path_pt)
    about = {"source": network.source, "source_sha256": sha256_of(path_pt)}
    return write_network(network, out, about)


def write_network(
    network: Network, out: Path, about: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> dict[str, str]:
    """Write a network as safetensors, in place of what was there in one step; returns its metadata.

    `about` is added to the metadata; `dtype` is that of the low-rank layers, all else stays float32.
    """
    tensors = stored(network, dtype)
    pad = "stored" if network.pad_embedding is not None else "mean" if network.pad_is_mean else "none"
    metadata = {"format": "pt", "source": network.source, "pad_row": pad, "tensors_sha256": tensors_hash(tensors)}
    metadata |= {
        key: value if isinstance(value, str) else json.dumps(value, allow_nan=False) for key, value in about.items()
    }
    replace_file(out, tensors, metadata)
    return metadata


def stored(network: Network, dtype: torch.dtype) -> dict[str, Tensor]:
    """The network's tensors as a file of that type holds them."""
    return {
        key: tensor.detach().to("cpu", torch.float32 if key.endswith(_KEPT_FULL) else dtype).contiguous()
        for key, tensor in tensors_of(network).items()
    }


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over every tensor's name, type and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, metadata = read_file(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as a safetensors file ({reason(error)}); {_WHOLE}") from None
    if (expected := metadata.get("tensors_sha256")) and expected != tensors_hash(tensors):
        raise SettingError(f"{path}: its tensors are not those it was written with; {_WHOLE}")
    return tensors, metadata


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            return {name: torch.from_numpy(read_array(archive, name)) for name in names}
    except MemoryError:
        raise _too_large(path) from None
    except UNREADABLE as error:
        raise SettingError(f"{path}: cannot be read as an npz file ({reason(error)}); {_WHOLE}") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The network's tensors of a published pickle, by their keys without the prefix; nothing of it is run."""
    try:
        # What the file names and torch does not know; torch refuses modules such as os in any case.
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        inert: list[Any] = [(_plain_dict if name == "collections.defaultdict" else _StandIn, name) for name in foreign]
        with torch.serialization.safe_globals(inert):
            content = load_tensors(path)
    except MemoryError:
        raise _too_large(path) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise SettingError(f"{path}: cannot be read as a file of torch weights ({_reason(error)}); {_WHOLE}") from None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise SettingError(f'{path}: has no entry "model" with weights by name; give one in MEND\'s published layout')
    tensors = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
            if prefix or key in _OTHERS:
                tensors[key.removeprefix(prefix)] = value
    return tensors


def _too_large(path: Path) -> RunError:
    return RunError(f"{path}: does not fit the computer's memory; free some, or take a larger machine")


def _transform(tensors: Mapping[str, Tensor], shape: tuple[int, int], source: str) -> Transform:
    """The transform of one weight shape, every tensor's own shape checked."""
    inputs, outputs = shape
    both = inputs + outputs

    def take(key: str, *expected: int | None) -> Tensor:
        key = f"({inputs}, {outputs}).{key}"
        if key not in tensors:
            raise SettingError(f"{source}: no {key} in it; expected MEND's whole network; {_WHOLE}")
        tensor = tensors[key]
        fits = [want in (None, have) for want, have in zip(expected, tensor.shape, strict=False)]
        if len(fits) != tensor.dim() or tensor.dim() != len(expected) or not all(fits):
            words = ", ".join("any" if want is None else str(want) for want in expected)
            raise SettingError(
                f"{source}: {key} must be of shape ({words}), got {tuple(tensor.shape)}; give another file"
            )
        if not bool(tensor.isfinite().all()):
            raise SettingError(f"{source}: {key} is not finite; give another file")
        return tensor

    layers: list[LowRankLayer] = []
    while not layers or f"({inputs}, {outputs}).mlp.layers.{len(layers)}.u" in tensors:
        place = f"mlp.layers.{len(layers)}"
        u_ER, shift_SE = take(f"{place}.u", both, None), take(f"{place}.mode_shift.weight", None, both)
        v_RE, scale_SE = (
            take(f"{place}.v", u_ER.shape[1], both),
            take(f"{place}.mode_scale.weight", len(shift_SE), both),
        )
        layers.append(LowRankLayer(u_ER, v_RE, take(f"{place}.bias", both), shift_SE, scale_SE))
    u_mean_I, u_std_I = take("u_mean", inputs), take("u_std", inputs)
    return Transform(u_mean_I, u_std_I, take("v_mean", outputs), take("v_std", outputs), tuple(layers))


def _full(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 copies; sums that nothing reads are left out.

    Raises SettingError for a tensor that the network is made of and that holds no plain floating-point numbers.
    """
    full = {}
    for key, tensor in tensors.items():
        if key.endswith(_UNUSED) or not (_KEY.fullmatch(key) or key in _OTHERS):
            continue
        if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in _TYPES:
            kind = "without numbers (meta)" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
            raise SettingError(f"{path}: {key} is {kind.replace('torch.', '')}; expected dense floating-point numbers")
        full[key] = tensor.detach().to(torch.float32, copy=True).contiguous()
    return full


def _reason(error: Exception) -> str:
    """What torch reports, without its advice to load the file unchecked."""
    if blocked := re.search(r"GLOBAL (\S+) whose module \S+ is blocked", str(error)):
        return f"it asks to run {blocked[1]}"
    lines = str(error).strip().splitlines()
    if isinstance(error, pickle.UnpicklingError) or not lines:
        return f"{type(error).__name__}: not tensors and plain data alone"
    return lines[0][:160]
