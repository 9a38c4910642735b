"""Published hyperparameter files: what they hold beside hyperparameters, and whether it is what is done here.

Covers the JSON files of ROME's and MEMIT's repositories for all five methods. A file that names another module than the
one edited is refused. Where it names other moments or weights than are used, a line says so. Keys that change nothing
here are taken by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from artifact.editing.mend import Network
from artifact.editing.moments.files import Moments
from artifact.editing.site import MODULES, PROJECTIONS, Module
from artifact.editing.tuned import is_tuned, tuned_of
from artifact.errors import SettingError
from artifact.lm.decoder import Decoder
from artifact.lm.families import FAMILIES
from artifact.lm.families.base import Base
from artifact.lm.family import Family
from artifact.lm.load import LanguageModel
from artifact.reading import read_json

_MODULES = (
    "rewrite_module_tmp",
    "layer_module_tmp",
    "mlp_module_tmp",
    "attn_module_tmp",
    "ln_f_module",
    "lm_head_module",
)
_MOMENTS = ("mom2_dataset", "mom2_n_samples", "mom2_dtype")
_MEND_DATA = ("counterfact", "zsre", "mini")
_ONE_VALUE: dict[str, tuple[Any, ...]] = {"layer_selection": ("all",), "wd_power_law": (None, False)}
"""Keys with the values that name what is done here; any other value would change the numbers."""
_UNUSED = ("n_toks", "model_name", "calculate_objective_value", "device", "stats_dir")
_REWRITTEN = "rewrite_module_tmps"
_OF_PROJECTIONS = ("rewrite_module_tmp", "mlp_module_tmp", "attn_module_tmp")
"""What else names weights in a file with that list."""
_ELSEWHERE = {*_MODULES, *_MOMENTS, *_MEND_DATA, *_ONE_VALUE, *_UNUSED}


def hyperparameters_of(
    path: Path, decoder: Decoder | None, site: Module | None = None, method: str = ""
) -> dict[str, Any]:
    """The hyperparameters of a published file, without what is settled elsewhere; `site` is the edited module where it
    is not the file's own word or, without one, the MLP. Those of `method` in a file of `kloc tune`.

    Raises SettingError for a file that is not a JSON object, and for one that names another module than the one edited:
    of `decoder`, or without one of any family known here.
    """
    given = read_json(path)
    if not isinstance(given, dict):
        raise SettingError(f"{path}: holds no hyperparameters; expected a JSON object by name")
    if is_tuned(given):
        chosen = tuned_of(given, path).methods
        if method not in chosen:
            raise SettingError(f"{path}: kloc tune chose nothing for {method} in it, only for {', '.join(chosen)}")
        return chosen[method].hparams
    given = _with_modules(path, given, decoder)
    for key in _MODULES:
        edited = site or ("attn" if given.get("site") == "attn" else "mlp")
        expected = _expected(key, decoder, edited)
        if key in given and str(given[key]).replace("{}", "0") not in expected:
            wanted = " or ".join(dict.fromkeys(name.replace(".0", ".{}", 1) for name in expected))
            raise SettingError(f"{path}: {key} names {given[key]!r}, and {wanted} is used here; give a file for it")
    for key, values in _ONE_VALUE.items():
        if key in given and given[key] not in values:
            raise SettingError(f"{path}: {key} is {given[key]!r} and only {values[0]!r} is known here; leave it out")
    hparams = {key: value for key, value in given.items() if key not in _ELSEWHERE}
    if hparams.get("weight_decay") is False:
        hparams["weight_decay"] = 0.0  # as some of FT's published files write it
    return hparams


def _with_modules(path: Path, given: dict[str, Any], decoder: Decoder | None) -> dict[str, Any]:
    """A file of PMET with its list of rewritten weights as `modules`; its other names of modules are projections.

    SettingError where the weight is not the output projection of a module.
    """
    if _REWRITTEN not in given:
        return given
    families = [decoder.family] if decoder else list(FAMILIES.values())
    names = {family.name(PROJECTIONS[one].part, 0): one for family in families for one in MODULES}
    listed = [str(name).replace("{}", "0") for name in given[_REWRITTEN]]
    if unknown := [name for name in listed if name not in names]:
        raise SettingError(f"{path}: {_REWRITTEN} names {unknown[0]!r}, and {' or '.join(names)} is used here")
    modules = [module for module in reversed(MODULES) if module in {names[name] for name in listed}]
    left = {key: value for key, value in given.items() if key not in (_REWRITTEN, *_OF_PROJECTIONS)}
    return {**left, "modules": modules}


def notes(path: Path | None, model: LanguageModel, moments: Moments | None, network: Network | None) -> tuple[str, ...]:
    """A line for each thing that a published file says and that is not what is used here: the model's name, the second
    moments' source, MEND's network.
    """
    if path is None:
        return ()
    given = msgspec.convert(read_json(path), dict[str, Any])
    if is_tuned(given):
        tuned = tuned_of(given, path)
        if tuned.weights_sha256 == model.weights_sha256:
            return ()
        return (f"{path.name} was tuned for {tuned.model}, or other weights of it; the model edited is {model.name}",)
    lines = []
    name = given.get("model_name")
    if name is not None and _plain_name(str(name)) != _plain_name(model.name):
        lines.append(f"{path.name} is for the model {name}; the model edited is {model.name}")
    if moments is not None:
        asked = {key: given[key] for key in _MOMENTS if key in given}
        held = moments.published(model.decoder) or {}
        if any(held.get(key) != value for key, value in asked.items()):
            words = ", ".join(f"{key} {value}" for key, value in asked.items())
            lines.append(f"{path.name} names other second moments ({words}); used are those of {moments.source}")
    data = [key for key in _MEND_DATA if given.get(key)]
    if network is not None and data:
        lines.append(f"{path.name} names a network trained with {', '.join(data)}; used is {network.source}")
    return tuple(lines)


def _plain_name(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower().removesuffix("-6b")


def _expected(key: str, decoder: Decoder | None, site: Module) -> Sequence[str]:
    """What a published file may name under `key`, for layer 0."""
    if decoder is None:
        return [name for family in FAMILIES.values() for name in _names(family, key, site, tied=None)]
    return _names(decoder.family, key, site, tied=f"{decoder.family.head}.weight" not in decoder.weights)


def _names(family: Family | type[Base], key: str, site: Module, tied: bool | None) -> list[str]:
    down = family.name("mlp_down", 0)
    return {
        "rewrite_module_tmp": [family.name(PROJECTIONS[site].part, 0)],
        "layer_module_tmp": [f"{family.blocks}.0"],
        "mlp_module_tmp": [down.rpartition(".")[0]],
        "attn_module_tmp": [family.name("attn_out", 0).rpartition(".")[0]],
        "ln_f_module": [family.final_norm],
        "lm_head_module": [family.head] if tied is False else [family.head, family.embedding],
    }[key]
