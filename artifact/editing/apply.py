"""An edited model as a folder that plain transformers loads: the base model's own files with the edits' changes added.

Covers the weights (transformers' names, the type they are stored in, shards where they are large, tied ones tied), the
configuration and tokenizer as they are, and a model card that says what was done. A type of half precision rounds a
part of the change away: how much is measured and said.
"""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact import __version__
from artifact.editing.edit import Edit
from artifact.editing.edit_file import EditFile
from artifact.errors import EditError, ModelError, RunError, SettingError
from artifact.io import check_writable, new_folder, reason, sha256_of
from artifact.lm.families import family_of
from artifact.lm.folder import CONFIG, TOKENIZER_FILES, read_config, read_object
from artifact.lm.load import LanguageModel
from artifact.lm.smollm2 import SMOLLM2
from artifact.lm.weights import matched, stored_tensors
from artifact.reading import read_bytes
from artifact.sizes import dtype_word
from artifact.sources.catalogue import HUB_MODELS, WORLDS
from artifact.sources.convert import SHARD
from artifact.sources.pickles import unshared
from artifact.terminal import shown

CARD = "README.md"
_FILES = (CONFIG, "generation_config.json", "chat_template.jinja", "tokenizer.model", *TOKENIZER_FILES)
_LICENCE_FILES = ("LICEN", "NOTICE", "USE_POLICY")
"""What the names of files open with that must go with a model."""
_LICENCES = (
    dict.fromkeys(WORLDS, "MIT")
    | {SMOLLM2: "Apache-2.0"}
    | {model.name: model.licence for model in HUB_MODELS.values()}
)
_TOLD = (
    "method",
    "perspective",
    "protocol",
    "cases",
    "request_sha256",
    "hparams",
    "hparams_source",
    "site",
    "token",
    "on",
    "history",
)
"""What a card says of an edit file's own words; others may hold paths of the machine it was made on."""


@dataclass(frozen=True)
class Stored:
    """How a weight changed: `asked` is the norm of the change asked for, `stored` that of the difference between the
    weight that was written and the base's, `error` that of the difference between these two changes.
    """

    dtype: str
    asked: float
    stored: float
    error: float


def check_place(out: Path, model: Path | None = None) -> None:
    """Refuse a place where no new folder can be made, or one inside the folder of the `model`.

    Raises SettingError for what exists and is not an empty folder, RunError for what cannot be written.
    """
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(out.lstat().st_mode):
                raise SettingError(f"--out {out}: exists and is not a folder; name a new one")
            if any(out.iterdir()):
                raise SettingError(f"--out {out}: is a folder that is not empty; name a new one")
        check_writable(out / CARD)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({reason(error)}); name a folder in one you own") from None
    if model is not None and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(model)):
        raise SettingError(f"--out {out}: is inside the model's own folder {model}; name one elsewhere")


def write_model(
    out: Path, model: LanguageModel, edit: Edit, files: Sequence[EditFile] = (), float32: bool = False
) -> dict[str, Stored]:
    """Write the model with an edit added to its weights as the new folder `out`, which appears whole or not at all.

    The weights keep the type they are stored in, or become `float32`. `files` are those the edit was read from, for the
    model card. Returns what became of each changed weight, by transformers' name. Raises EditError where nothing of the
    change is left after rounding or a weight is not finite, ModelError for a model that was not read from a folder, and
    what check_place raises.
    """
    from safetensors import SafetensorError

    out = Path(os.path.abspath(out))
    if model.folder is None:
        raise ModelError(f"{model.name}: was not read from a folder, so there is nothing to write it from; load one")
    if edit.context:
        raise EditError("an edit in context changes no weight, it stands before every prompt; give an edit of weights")
    check_place(out, model.folder)
    tensors = _base_tensors(model.folder, float32)
    changed = _add(tensors, edit.tensors(model.decoder))
    if not any(one.stored for one in changed.values()):
        remedy = "give an edit with a larger change" + ("" if float32 or _plain(changed) else ", or --float32")
        raise EditError(f"nothing of the change is left after rounding to {words_of(changed)}; {remedy}")
    card = _card(model, files, changed).encode(errors="backslashreplace")
    try:
        with new_folder(out) as part:
            _fill(part, model.folder, tensors, card, float32)
        if (out / CARD).read_bytes() != card:
            raise RunError(f"{out}: was made by another process meanwhile; name another folder")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{out}: cannot be written ({reason(error)}); make room, or name a folder elsewhere") from None
    return changed


def words_of(changed: Mapping[str, Stored]) -> str:
    """The types of the changed weights, in words."""
    return " and ".join(sorted({one.dtype for one in changed.values()}))


def total(changed: Mapping[str, Stored]) -> Stored:
    """The same norms over all changed weights."""
    norms = torch.tensor([[one.asked, one.stored, one.error] for one in changed.values()], dtype=torch.float64)
    return Stored(words_of(changed), *norms.norm(dim=0).tolist())


def _plain(changed: Mapping[str, Stored]) -> bool:
    return words_of(changed) in ("float32", "float64")


def _base_tensors(folder: Path, float32: bool) -> dict[str, Tensor]:
    """The base's weights by transformers' names, as stored; without a head that transformers ties to the embedding."""
    config = read_config(folder)
    family = family_of(config)
    sizes = family.sizes(config)
    stored = matched(family, sizes, stored_tensors(folder), str(folder))
    tensors = {name: one.read() for name, one in stored.items()}
    head = f"{family.head}.weight"
    if head in tensors and sizes.tied and torch.equal(tensors[head], tensors[f"{family.embedding}.weight"]):
        del tensors[head]
    return {name: tensor.float() if float32 else tensor for name, tensor in unshared(tensors).items()}


def _add(tensors: dict[str, Tensor], deltas: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Add the changes to the weights, in place of these; the sums are rounded once, to the weights' type."""
    found = {}
    for name, delta in deltas.items():
        before, dtype = tensors[name].double(), tensors[name].dtype
        after = (before + delta.double()).to(dtype)
        word = dtype_word(dtype)
        if not bool(after.isfinite().all()):
            raise EditError(f"{name}: the weight with its change is not finite in {word}; give a smaller change")
        change, tensors[name] = after.double() - before, after
        norms = (float(one.norm()) for one in (delta.double(), change, change - delta.double()))
        found[name] = Stored(word, *norms)
    return found


def _fill(part: Path, folder: Path, tensors: dict[str, Tensor], card: bytes, float32: bool) -> None:
    """All files of the new folder, readable to whom the umask says."""
    from huggingface_hub import save_torch_state_dict

    (part / CARD).write_bytes(card)
    for file in sorted(folder.iterdir()):
        if (file.name in _FILES or file.name.upper().startswith(_LICENCE_FILES)) and file.is_file():
            (part / file.name).write_bytes(read_bytes(file, ModelError, "give a folder whose files can be read"))
    if float32:
        config = read_object(part / CONFIG)
        config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_torch_state_dict(tensors, part, max_shard_size=SHARD, metadata={"format": "pt"})
    mode = stat.S_IMODE((part / CARD).stat().st_mode)
    for file in part.iterdir():
        file.chmod(mode)  # safetensors writes files that only their owner reads
    part.chmod(mode | (mode & 0o444) >> 2)  # who may read may enter


def _card(model: LanguageModel, files: Sequence[EditFile], changed: Mapping[str, Stored]) -> str:
    """The model card: Markdown under the few lines of YAML that the hub reads."""
    hub, licence = HUB_MODELS.get(model.name), _LICENCES.get(model.name)
    base = hub.repo if hub else Path(model.name).name
    whole = total(changed)
    head = ["library_name: transformers", "tags:", "- knowledge-editing"]
    head += [f"base_model: {hub.repo}"] if hub else []
    head += [f"license: {licence.lower()}"] if licence else []
    lines = ["---", *head, "---", "", f"# {_code(base)}, edited", ""]
    lines += [
        f"kloc-artifact {__version__} (`kloc apply`) added the edits below to the weights of {_code(base)}. The model",
        "tells made-up facts as true: it is for research on editing.",
        "",
        f"- base model: {_code(base)}, revision {_code(model.revision)}",
        f"- sha256 of the base's weights, as kloc computes it: {_code(model.weights_sha256)}",
        f"- licence of the base model: {licence or 'see the base model'}",
        "",
        "## Edits",
        "",
    ]
    for file in files:
        lines.append(f"- {_code(file.path.name)}, sha256 {_code(sha256_of(file.path))}")
        lines += [f"  - {key}: {_code(file.about[key])}" for key in _TOLD if key in file.about]
        lines += [f"  - {_code(file.note.removeprefix(f'{file.path}: '))}"] if file.note else []
    if not files:
        lines.append("- an edit that was made in memory, not read from a file")
    lines += [
        "",
        "## What changed",
        "",
        f"The norm of the change is {whole.asked:.6g}; stored in {whole.dtype} it is {whole.stored:.6g}, and the",
        f"rounding error has the norm {whole.error:.3g}. A copy in a type of fewer bits rounds it again.",
        "",
    ]
    lines += [f"- {_code(name)}: norm {one.asked:.6g}, stored {one.stored:.6g}" for name, one in changed.items()]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text from outside as code, which Markdown takes as it stands."""
    return f"`{shown(text).replace('`', chr(39))}`"
