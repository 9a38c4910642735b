"""An edit as a safetensors file: new minus old by transformers' parameter name, and what it was made with.

The metadata holds the hash of the edited model's weights (made_for.py), and the text of an edit in context. A file is
trusted with nothing: names, shapes, types and numbers are checked: the numbers as the model holds them, and added to
its weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact.editing import made_for
from artifact.editing.edit import Dense, Edit, added_up
from artifact.editing.tensor_file import read_file, replace_file
from artifact.errors import EditError
from artifact.io import reason
from artifact.lm.decoder import Decoder
from artifact.lm.load import LanguageModel
from artifact.sizes import dtype_word

_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CONTEXT = "context"
"""The entry of the metadata that holds the text of an edit in context."""
_GIVE = "give a file written by kloc edit"


@dataclass(frozen=True)
class EditFile:
    """An edit that was read, with what its file says it was made with (`about`), and the line that must be said of it:
    that it is for another model, or an unknown one.
    """

    path: Path
    edit: Edit
    about: Mapping[str, str]
    note: str


def write_edit(path: Path, edit: Edit, model: LanguageModel, about: Mapping[str, str]) -> None:
    """Write an edit of `model` with what it was made with, in place of what was there in one step.

    Raises EditError where the edited weights would not be finite, RunError where the file cannot be written.
    """
    tensors = edit.tensors(model.decoder)
    for parameter, delta in tensors.items():
        if not _finite_sum(model.decoder, parameter, delta):
            held = dtype_word(model.decoder.dtype)
            raise EditError(f"{parameter}: the weight with its change is not finite in {held}")
    context = {CONTEXT: edit.context} if edit.context else {}
    replace_file(path, tensors, {**about, **context, made_for.KEY: model.weights_sha256})


def read_edit(path: Path, model: LanguageModel, any_model: bool = False) -> EditFile:
    """The edit in a safetensors file as `write_edit` writes it.

    Raises EditError for a file that cannot be read, a name that is not a weight of the model's blocks, another shape, a
    type that is not a floating-point number, and numbers that are not finite once the model's type holds them, alone or
    added to its weights. Raises SettingError for the edit of another model, unless `any_model`.
    """
    tensors, about = _read(path)
    note = made_for.note(str(path), made_for.hash_in(str(path), about), model, any_model)
    decoder = model.decoder
    by_layer: dict[str, dict[str, Tensor]] = {}
    for parameter, delta in tensors.items():
        layer, _, part = parameter.rpartition(".")
        delta = _checked(path, decoder, parameter, delta)
        by_layer.setdefault(layer, {})[part] = (
            delta.t() if part == "weight" and not decoder.family.input_first else delta
        )
    changes = {layer: Dense(parts.get("weight"), parts.get("bias")) for layer, parts in by_layer.items()}
    edit = Edit(changes, about.get(CONTEXT, ""))
    if not edit.context and not edit.norm() > 0:
        raise EditError(f"{path}: changes nothing: every entry is zero in {dtype_word(decoder.dtype)}; {_GIVE}")
    return EditFile(path, edit, about, note)


def read_edits(
    paths: Sequence[Path], model: LanguageModel, any_model: bool = False
) -> tuple[Edit | None, list[EditFile]]:
    """The edits of several files as one that adds them up, and each file; None without files.

    Raises as `read_edit` does, and EditError where edits cancel out, or are not finite together.
    """
    files = [read_edit(path, model, any_model) for path in paths]
    if not files:
        return None, files
    edit = added_up([file.edit for file in files])
    if len(files) > 1:
        named = " and ".join(str(path) for path in paths)
        for parameter, delta in edit.tensors(model.decoder).items():
            if not _finite_sum(model.decoder, parameter, delta):
                raise EditError(f"{named}: added to {parameter} together they are not finite; give fewer edits")
        if not edit.context and not edit.norm() > 0:
            raise EditError(f"{named}: change nothing together: they cancel out; give other edits")
    return edit, files


def notes_of(files: Sequence[EditFile]) -> list[str]:
    """What must be said of the files, a line each."""
    return [file.note for file in files if file.note]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; EditError for one that is damaged, empty, or not a regular file."""
    if path.exists() and not path.is_file():
        raise EditError(f"{path}: is not a regular file; {_GIVE}")
    try:
        tensors, about = read_file(path)
    except (OSError, ValueError) as error:
        raise EditError(f"{path}: cannot be read as a safetensors file ({reason(error)}); {_GIVE}") from None
    if not tensors and CONTEXT not in about:
        raise EditError(f"{path}: holds no weight change; {_GIVE}")
    return tensors, about


def _checked(path: Path, decoder: Decoder, parameter: str, delta: Tensor) -> Tensor:
    """The change of one weight in the model's type, on the device of the model's edits."""
    shown = repr(parameter[:80])
    weight = decoder.weights.get(parameter)
    if weight is None or not parameter.startswith(f"{decoder.family.blocks}."):
        raise EditError(f"{path}: {shown} is not a weight of this model's blocks; give an edit of this model")
    if delta.dtype not in _TYPES:
        types = ", ".join(map(dtype_word, _TYPES))
        raise EditError(f"{path}: {shown} is of type {dtype_word(delta.dtype)}; expected one of {types}; {_GIVE}")
    if delta.shape != weight.shape:
        raise EditError(
            f"{path}: {shown} must be of shape {tuple(weight.shape)}, got {tuple(delta.shape)}; give an edit of this "
            "model"
        )
    held = delta.to(weight.device, weight.dtype)
    if not bool(held.isfinite().all()):
        where = "" if not bool(delta.isfinite().all()) else f" in {dtype_word(weight.dtype)}, the model's type"
        raise EditError(f"{path}: {shown} is not finite{where}; {_GIVE}")
    if not _finite_sum(decoder, parameter, held):
        raise EditError(
            f"{path}: {shown} added to the model's weight is not finite in {dtype_word(weight.dtype)}; {_GIVE}"
        )
    return held.to(decoder.device)


def _finite_sum(decoder: Decoder, parameter: str, delta: Tensor) -> bool:
    weight = decoder.weights[parameter]
    return bool((weight + delta.to(weight.device, weight.dtype)).isfinite().all())
