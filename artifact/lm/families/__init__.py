"""Model families by transformers' model_type: one file each, and this table of them.

A family file says how its blocks differ (lm/decoder.py), which configuration keys it reads and within which bounds,
which tensors it expects by name and shape, and what it refuses. A new family is one file and its name here
(docs/extend.md).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from artifact.errors import ModelError
from artifact.lm.families.base import Base
from artifact.terminal import short

_FILES = ("gpt2", "gptj", "llama", "neox", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3", "phi3")
_ENCODERS = ("bert", "roberta")
FAMILIES: Mapping[str, type[Base]] = {
    family.model_type: family
    for family in (import_module(f"{__name__}.{file}").FAMILY for file in (*_FILES, *_ENCODERS))
}


def family_type(model_type: object) -> type[Base]:
    """The family of a configuration's model_type; ModelError for one that is unknown."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        *names, last = FAMILIES
        expected = f"{', '.join(names)} or {last}"
        raise ModelError(f"model family {short(repr(model_type))} is not supported; expected {expected}")
    return FAMILIES[model_type]


def refuse_quantised(settings: object) -> None:
    """Raise ModelError where a configuration's `quantization_config` says anything."""
    if settings:
        raise ModelError("quantised weights are not supported; give the model in float32, float16 or bfloat16")


def required(family: type[Base]) -> dict[str, object]:
    """What a configuration must say, or leave out, by key: a value, or several."""
    return {**family.required, **({"is_causal": True} if family.causal else {})}


def family_of(config: Any) -> Base:
    """The family with what a transformers configuration says of it.

    Raises ModelError for an unknown family, quantised weights, and a configuration that the pass does not compute.
    """
    refuse_quantised(getattr(config, "quantization_config", None))
    kind = family_type(config.model_type)
    for key, value in required(kind).items():
        expected = value if isinstance(value, tuple) else (value,)
        given = getattr(config, key, expected[0])
        if given not in expected:
            words = " or ".join(map(repr, expected))
            raise ModelError(f"configuration {key} = {short(repr(given))} is not supported; expected {words}")
    return kind.of(config)
