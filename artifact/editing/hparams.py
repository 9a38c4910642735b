"""Hyperparameters: typed, one sentence each, per model and method, hashed into every record.

Covers ROME. Keys are those of the published files, so that such a file works as `--hparams`. Values for GPT-2 XL and
GPT-J are the published ones (PROTOCOL section 4 of docs/protocol.md); those of other models are no paper values.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from artifact.errors import SettingError
from artifact.facts.fact import read_json

_PUBLISHED_ELSEWHERE = {
    "rewrite_module_tmp",
    "layer_module_tmp",
    "mlp_module_tmp",
    "attn_module_tmp",
    "ln_f_module",
    "lm_head_module",
    "mom2_dataset",
    "mom2_n_samples",
    "mom2_dtype",
}
"""Keys of the published files that this package settles elsewhere: module names by family, moments by their source."""


def _says(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class RomeHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ROME's hyperparameters under their published names."""

    layers: Annotated[
        tuple[int, ...], _says("The one layer whose down-projection is edited.", min_length=1, max_length=1)
    ]
    v_loss_layer: Annotated[int, _says("Layer after which the output head reads the loss; the last one.", ge=0)]
    v_num_grad_steps: Annotated[int, _says("Forward passes of the value optimisation.", ge=1)] = 20
    v_lr: Annotated[float, _says("Adam's step size for the value.", gt=0)] = 0.5
    v_weight_decay: Annotated[float, _says("Weight of |delta| / |v0|^2 in the loss.", ge=0)] = 0.5
    clamp_norm_factor: Annotated[float, _says("Largest |delta| as a multiple of |v0|.", gt=0)] = 4.0
    kl_factor: Annotated[float, _says("Weight of the divergence on '{subject} is a'.", ge=0)] = 0.0625
    mom2_adjustment: Annotated[bool, _says("Whiten the key with the inverse second moment.")] = True
    context_template_length_params: Annotated[
        tuple[tuple[int, int], ...], _says("Prefixes drawn from the model: pairs of most tokens and how many.")
    ] = ((5, 10), (10, 10))
    fact_token: Annotated[str, _says("Whose key is edited; only the subject's last token is known here.")] = (
        "subject_last"
    )

    @property
    def layer(self) -> int:
        return self.layers[0]


_ROME = {
    "gpt2-xl": RomeHparams(layers=(17,), v_loss_layer=47),
    "gpt-j": RomeHparams(layers=(5,), v_loss_layer=27),
    "world": RomeHparams(
        layers=(1,), v_loss_layer=5, v_num_grad_steps=60, v_lr=0.2, v_weight_decay=5e-4, clamp_norm_factor=12.0
    ),
}

_H = TypeVar("_H", bound=msgspec.Struct)


def rome_hparams(model: str, layers: int, overrides: Path | None = None) -> RomeHparams:
    """ROME's hyperparameters for a model of that name and depth, with the overrides of a JSON file.

    A model without published values takes those of GPT-2 XL at the same fraction of its depth.
    Raises SettingError for a file with an unknown key, a wrong type, or a layer the model lacks.
    """
    scaled = RomeHparams(layers=(min(layers - 1, round(17 / 48 * layers)),), v_loss_layer=layers - 1)
    hparams = _override(_ROME.get(model, scaled), overrides)
    for name, value in (("layers", hparams.layer), ("v_loss_layer", hparams.v_loss_layer)):
        if not 0 <= value < layers:
            raise SettingError(
                f"hyperparameter {name}: layer {value} is not in this model of {layers} layers; give 0 to {layers - 1}"
            )
    if hparams.v_loss_layer < hparams.layer:
        raise SettingError("hyperparameter v_loss_layer lies below the edited layer; give a layer at or above it")
    if hparams.fact_token != "subject_last":
        raise SettingError(f"hyperparameter fact_token: {hparams.fact_token!r} is unknown; expected subject_last")
    return hparams


def hparams_hash(hparams: msgspec.Struct) -> str:
    """First 12 hex digits of the sha256 of the resolved values, sorted by name."""
    return hashlib.sha256(msgspec.json.encode(hparams, order="sorted")).hexdigest()[:12]


def _override(hparams: _H, path: Path | None) -> _H:
    if path is None:
        return hparams
    given = read_json(path)
    if not isinstance(given, dict):
        raise SettingError(f"{path}: holds no hyperparameters; expected a JSON object by name")
    given = {key: value for key, value in given.items() if key not in _PUBLISHED_ELSEWHERE}
    try:
        return msgspec.convert({**msgspec.to_builtins(hparams), **given}, type(hparams))
    except msgspec.ValidationError as error:
        known = ", ".join(type(hparams).__struct_fields__)
        raise SettingError(f"{path}: {error}; the hyperparameters are {known}") from None
