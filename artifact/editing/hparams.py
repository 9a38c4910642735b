"""Hyperparameters: typed, one sentence each, hashed into every record.

Covers what the methods' hyperparameters share; each method's own stand in its file (methods/), with their values by
model. Keys are those of the published files, so that such a file works as `--hparams` (what else it holds:
published.py). Values for GPT-2 XL and GPT-J are the published ones (docs/protocol.md).
"""

import hashlib
from typing import Annotated, Any

import msgspec

from artifact.editing.site import FactToken, Module
from artifact.errors import SettingError


def says(text: str, **limits: Any) -> msgspec.Meta:
    """A hyperparameter's sentence, with its limits as msgspec's."""
    return msgspec.Meta(description=text, **limits)


Layer = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, says("Adam's step size.", gt=0, le=1e3)]
Clamp = Annotated[float, says("Largest |delta| as a multiple of the unedited vector's norm.", gt=0, le=1e6)]
OneLayer = Annotated[
    tuple[Layer, ...], says("The one layer whose down-projection is edited.", min_length=1, max_length=1)
]


class Hparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every method's hyperparameters: a frozen record of numbers under their published names."""

    @property
    def edited(self) -> tuple[int, ...]:
        """The layers that are edited, empty where the method finds them itself."""
        return getattr(self, "layers", ())

    @property
    def layer(self) -> int:
        """The first edited layer, of most methods the only one."""
        return self.edited[0]

    @property
    def moment_sites(self) -> tuple[Module, ...]:
        """The modules whose keys' second moments are read, where the method reads any."""
        return (getattr(self, "site", "mlp"),)

    def check(self, layers: int) -> None:
        """Raise SettingError for values that do not fit a model of so many layers."""
        for layer in self.edited:
            if layer >= layers:
                raise SettingError(
                    f"hyperparameter layers: layer {layer} is not in this model of {layers} layers; give 0 to "
                    f"{layers - 1}"
                )
        if list(self.edited) != sorted(set(self.edited)):
            raise SettingError(f"hyperparameter layers: {list(self.edited)} must rise; give each once, lowest first")


class ValueHparams(Hparams, frozen=True, kw_only=True):
    """Those of the value optimisation that ROME and MEMIT share (value.py)."""

    layers: tuple[Layer, ...]
    v_loss_layer: Annotated[int, says("Layer after which the output head reads the loss; the last one.", ge=0)]
    v_num_grad_steps: Annotated[int, says("Forward passes of the value optimisation.", ge=1, le=100_000)] = 20
    v_lr: Rate = 0.5
    v_weight_decay: Annotated[float, says("Weight of |delta| / |v0|^2 in the loss.", ge=0, le=1e6)] = 0.5
    clamp_norm_factor: Clamp
    kl_factor: Annotated[float, says("Weight of the divergence on '{subject} is a'.", ge=0, le=1e6)] = 0.0625
    mom2_adjustment: bool
    fact_token: Annotated[FactToken, says("The token whose key is edited.")] = "subject_last"
    site: Annotated[Module, says("The module whose output projection is edited.")] = "mlp"

    def check(self, layers: int) -> None:
        super().check(layers)
        if self.v_loss_layer >= layers:
            raise SettingError(
                f"hyperparameter v_loss_layer: layer {self.v_loss_layer} is not in this model of {layers} layers; "
                f"give 0 to {layers - 1}"
            )
        if self.v_loss_layer < self.layers[-1]:
            raise SettingError("hyperparameter v_loss_layer lies below the edited layer; give a layer at or above it")


def told(hparams: msgspec.Struct) -> dict[str, Any]:
    """The resolved values by name, as they are recorded. What is younger than the published files is left out where it
    says what they do, so that hashes stay.
    """
    values: dict[str, Any] = msgspec.to_builtins(hparams)
    return {name: value for name, value in values.items() if _YOUNGER.get(name, ()) != value}


_YOUNGER = {"site": "mlp"}


def hparams_hash(hparams: msgspec.Struct) -> str:
    """First 12 hex digits of the sha256 of the resolved values, sorted by name."""
    return hashlib.sha256(msgspec.json.encode(told(hparams), order="sorted")).hexdigest()[:12]
