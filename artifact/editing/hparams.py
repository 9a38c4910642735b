"""Hyperparameters: typed, one sentence each, per model and method, hashed into every record.

Keys are those of the published files, so that such a file works as `--hparams` (what else it holds: published.py).
Values for GPT-2 XL and GPT-J are the published ones (docs/protocol.md). Those of other models are not paper values: the
embedded world's were chosen on it, SmolLM2's FT and MEMIT likewise; any other model takes those of GPT-2 XL at the same
fraction of its depth. It reads no weights.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from artifact.errors import SettingError

if TYPE_CHECKING:
    from artifact.lm.decoder import Decoder

MethodName = Literal["ft", "kn", "mend", "rome", "memit"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
JOINT: frozenset[MethodName] = frozenset({"ft", "mend", "memit"})
"""Methods that can write a list of requests into one edit; the others edit single facts."""


def _says(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


_Layer = Annotated[int, msgspec.Meta(ge=0)]
_FactToken = Annotated[
    Literal["subject_last"], _says("The token whose key is edited; only the subject's last is known here.")
]
_Clamp = Annotated[float, _says("Largest |delta| as a multiple of the unedited vector's norm.", gt=0, le=1e6)]
_Kl = Annotated[float, _says("Weight of the divergence on '{subject} is a'.", ge=0, le=1e6)]
_Decay = Annotated[float, _says("Weight of |delta| / |v0|^2 in the loss.", ge=0, le=1e6)]
_Rate = Annotated[float, _says("Adam's step size.", gt=0, le=1e3)]
_Steps = Annotated[int, _says("Forward passes of the value optimisation.", ge=1, le=100_000)]
_LossLayer = Annotated[int, _says("Layer after which the output head reads the loss; the last one.", ge=0)]
_OneLayer = Annotated[
    tuple[_Layer, ...], _says("The one layer whose down-projection is edited.", min_length=1, max_length=1)
]
_Length = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_Prefixes = Annotated[
    tuple[tuple[_Length, _Length], ...], _says("Prefixes drawn from the model: pairs of most tokens and how many.")
]


class RomeHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ROME's hyperparameters under their published names."""

    layers: _OneLayer
    v_loss_layer: _LossLayer
    v_num_grad_steps: _Steps = 20
    v_lr: _Rate = 0.5
    v_weight_decay: _Decay = 0.5
    clamp_norm_factor: _Clamp = 4.0
    kl_factor: _Kl = 0.0625
    mom2_adjustment: Annotated[bool, _says("Whiten the key with the inverse second moment.")] = True
    context_template_length_params: _Prefixes = ((5, 10), (10, 10))
    fact_token: _FactToken = "subject_last"

    @property
    def layer(self) -> int:
        return self.layers[0]


class MemitHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MEMIT's hyperparameters under their published names."""

    layers: Annotated[
        tuple[_Layer, ...], _says("Layers whose down-projections share the change, lowest first.", min_length=1)
    ]
    v_loss_layer: _LossLayer
    mom2_update_weight: Annotated[
        float, _says("lambda: how much the second moments weigh against the new keys.", gt=0, le=1e15)
    ] = 20000.0
    v_num_grad_steps: _Steps = 20
    v_lr: _Rate = 0.5
    v_weight_decay: _Decay = 0.5
    clamp_norm_factor: _Clamp = 0.75
    kl_factor: _Kl = 0.0625
    mom2_adjustment: Annotated[Literal[True], _says("The second moments are always part of the solve.")] = True
    fact_token: _FactToken = "subject_last"


class FtHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fine-tuning's hyperparameters under their published names."""

    layers: _OneLayer
    num_steps: Annotated[int, _says("Most passes over the requests.", ge=1, le=100_000)] = 25
    lr: _Rate = 5e-4
    weight_decay: Annotated[float, _says("Adam's weight decay on the trained weights.", ge=0, le=1e6)] = 0.0
    kl_factor: Annotated[float, _says("Weight of a divergence term; the released code has none.", ge=0, le=0)] = 0.0
    norm_constraint: Annotated[
        float | bool | None, _says("Largest change of any weight entry; false or null for no limit.")
    ] = 5e-4
    batch_size: Annotated[int, _says("Requests a step when a list is written jointly.", ge=1, le=1_000_000)] = 128

    @property
    def layer(self) -> int:
        return self.layers[0]

    @property
    def most(self) -> float | None:
        """The largest change of any entry, None without a limit."""
        return None if isinstance(self.norm_constraint, bool) else self.norm_constraint


class KnHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Knowledge Neurons' hyperparameters under their published names."""

    steps: Annotated[
        int, _says("Points of the integrated gradient, from zero to the activation.", ge=2, le=100_000)
    ] = 20
    adaptive_threshold: Annotated[
        float, _says("Share of the largest attribution above which a neuron counts.", ge=0, lt=1)
    ] = 0.2
    refine: Annotated[bool, _says("Keep only neurons that enough rephrasings share.")] = False
    p: Annotated[float, _says("Share of the prompts that must agree on a neuron, when refining.", ge=0, lt=1)] = 0.4
    batch_size: Annotated[
        int, _says("Points a pass in the released code; no number depends on it.", ge=1, le=1_000_000)
    ] = 20
    lr_scale: Annotated[float, _says("Published with the others and not used by the method.", ge=-1e6, le=1e6)] = 1.0


class MendHparams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MEND's hyperparameters: which weights it edits and how far; the network's own come with its weights."""

    layers: Annotated[tuple[_Layer, ...], _says("Layers whose MLP is edited, lowest first.", min_length=1)]
    inner_order: Annotated[
        tuple[Literal["mlp_down", "mlp_up"], Literal["mlp_down", "mlp_up"]],
        _says("The two weights of a layer in the order in which step sizes were learned."),
    ] = ("mlp_down", "mlp_up")
    lr_scale: Annotated[float, _says("Factor on every learned step size.", gt=0, le=1e6)] = 1.0


_MOST = 1e6
"""Largest limit on the change of a weight's entry."""

Hparams = RomeHparams | MemitHparams | FtHparams | KnHparams | MendHparams

_PUBLISHED: dict[tuple[MethodName, str], Hparams] = {
    ("ft", "gpt2-xl"): FtHparams(layers=(0,)),
    ("ft", "gpt-j"): FtHparams(layers=(0,), norm_constraint=5e-5),
    ("kn", "gpt2-xl"): KnHparams(),
    ("kn", "gpt-j"): KnHparams(adaptive_threshold=0.1),
    ("mend", "gpt2-xl"): MendHparams(layers=(45, 46, 47)),
    ("mend", "gpt-j"): MendHparams(layers=(25, 26, 27), inner_order=("mlp_up", "mlp_down")),
    ("rome", "gpt2-xl"): RomeHparams(layers=(17,), v_loss_layer=47),
    ("rome", "gpt-j"): RomeHparams(layers=(5,), v_loss_layer=27),
    ("memit", "gpt2-xl"): MemitHparams(layers=(13, 14, 15, 16, 17), v_loss_layer=47),
    ("memit", "gpt-j"): MemitHparams(
        layers=(3, 4, 5, 6, 7, 8), v_loss_layer=27, v_num_grad_steps=25, mom2_update_weight=15000.0
    ),
}
_NOT_IN_THE_TABLES: dict[tuple[MethodName, str], str] = {("ft", "gpt-j"): "values", ("kn", "gpt-j"): "threshold"}
"""What the paper's tables hold no row of, and what of it is published elsewhere."""
_WORLD: dict[MethodName, Hparams] = {
    "ft": FtHparams(layers=(0,), lr=2e-3, norm_constraint=1e-2),
    "kn": KnHparams(),
    "mend": MendHparams(layers=(3, 4, 5)),
    "rome": RomeHparams(
        layers=(1,), v_loss_layer=5, v_num_grad_steps=25, v_lr=0.6, v_weight_decay=5e-4, clamp_norm_factor=12.0
    ),
    "memit": MemitHparams(
        layers=(0, 1),
        v_loss_layer=5,
        mom2_update_weight=50.0,
        v_num_grad_steps=30,
        v_lr=0.3,
        v_weight_decay=5e-4,
        clamp_norm_factor=8.0,
    ),
}
_SMOLLM2: dict[MethodName, Hparams] = {
    "ft": FtHparams(layers=(0,), norm_constraint=5e-3),
    "memit": MemitHparams(layers=(9, 10, 11), v_loss_layer=29, mom2_update_weight=100.0),
}
"""GPT-2 XL's limits leave this model's facts as they are: of the known facts 2, 5, 6, 7 and 10, edited in the entity
view, the prompt then gave the new object for one (FT) and none (MEMIT), and with these for all five."""
_CHOSEN: dict[str, dict[MethodName, Hparams]] = {"world": _WORLD, "smollm2": _SMOLLM2}


def _scaled(layers: int) -> dict[MethodName, Hparams]:
    """GPT-2 XL's values at the same fraction of the depth."""
    top = min(layers - 1, round(17 / 48 * layers))
    few = max(1, round(5 / 48 * layers))
    return {
        "ft": FtHparams(layers=(0,)),
        "kn": KnHparams(),
        "mend": MendHparams(layers=tuple(range(max(0, layers - 3), layers))),
        "rome": RomeHparams(layers=(top,), v_loss_layer=layers - 1),
        "memit": MemitHparams(layers=tuple(range(max(0, top - few + 1), top + 1)), v_loss_layer=layers - 1),
    }


def hparams_for(
    method: MethodName, model: str, layers: int, overrides: Path | None = None, decoder: "Decoder | None" = None
) -> Any:
    """A method's hyperparameters for a model of that name and depth, with the overrides of a JSON file.

    Raises SettingError for a file with an unknown key, a wrong type, a layer that the model does not have, or another
    module than the one edited: of `decoder`, or without one of any known family.
    """
    default = _CHOSEN.get(model, {}).get(method) or _PUBLISHED.get((method, model), _scaled(layers)[method])
    hparams = _override(default, overrides, decoder)
    _check_layers(hparams, layers)
    _check_loss_layer(hparams, layers)
    if isinstance(hparams, FtHparams) and (
        hparams.norm_constraint is True or (hparams.most is not None and not 0 < hparams.most <= _MOST)
    ):
        raise SettingError(
            f"hyperparameter norm_constraint must be a number above zero and at most {_MOST:g}, or false for no limit"
        )
    return hparams


def hparams_source(hparams: Hparams, method: MethodName, model: str, layers: int) -> str:
    """Where a model's hyperparameters come from, in words, and whether they are paper values."""
    if (method, model) in _NOT_IN_THE_TABLES:
        words = f"not in the tables, {_NOT_IN_THE_TABLES[method, model]} published elsewhere"
    elif (method, model) in _PUBLISHED:
        words = "published for this model"
    elif method in _CHOSEN.get(model, {}):
        words = f"chosen on {'the embedded world' if model == 'world' else model}, no paper values"
    else:
        words = "GPT-2 XL's at the same fraction of the depth, no paper values"
    return words if hparams == hparams_for(method, model, layers) else f"{words}; some given instead"


def hparams_hash(hparams: msgspec.Struct) -> str:
    """First 12 hex digits of the sha256 of the resolved values, sorted by name."""
    return hashlib.sha256(msgspec.json.encode(hparams, order="sorted")).hexdigest()[:12]


def _check_layers(hparams: Hparams, layers: int) -> None:
    chosen = getattr(hparams, "layers", ())
    for layer in chosen:
        if layer >= layers:
            raise SettingError(
                f"hyperparameter layers: layer {layer} is not in this model of {layers} layers; give 0 to {layers - 1}"
            )
    if list(chosen) != sorted(set(chosen)):
        raise SettingError(f"hyperparameter layers: {list(chosen)} must rise; give each layer once, lowest first")


def _check_loss_layer(hparams: Hparams, layers: int) -> None:
    if not isinstance(hparams, RomeHparams | MemitHparams):
        return
    if hparams.v_loss_layer >= layers:
        raise SettingError(
            f"hyperparameter v_loss_layer: layer {hparams.v_loss_layer} is not in this model of {layers} layers; "
            f"give 0 to {layers - 1}"
        )
    if hparams.v_loss_layer < hparams.layers[-1]:
        raise SettingError("hyperparameter v_loss_layer lies below the edited layer; give a layer at or above it")


def _override(hparams: Hparams, path: Path | None, decoder: "Decoder | None") -> Hparams:
    if path is None:
        return hparams
    from artifact.editing.published import hyperparameters_of

    given = hyperparameters_of(path, decoder)
    try:
        return msgspec.convert({**msgspec.to_builtins(hparams), **given}, type(hparams))
    except msgspec.ValidationError as error:
        known = ", ".join(type(hparams).__struct_fields__)
        raise SettingError(f"{path}: {error}; the hyperparameters are {known}") from None
