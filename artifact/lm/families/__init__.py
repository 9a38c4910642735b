"""Model families by transformers' model_type: one file each, and this table of them.

A family file says how its blocks differ (lm/decoder.py), which configuration keys it reads and within which bounds,
which tensors it expects by name and shape, and what it refuses. A new family is one file and one entry here.
"""

from collections.abc import Mapping
from typing import Any

from artifact.errors import ModelError
from artifact.lm.families.gpt2 import GPT2
from artifact.lm.families.gptj import GPTJ
from artifact.lm.families.llama import Llama
from artifact.terminal import short

AnyFamily = GPT2 | GPTJ | Llama
FAMILIES: Mapping[str, type[GPT2] | type[GPTJ] | type[Llama]] = {one.model_type: one for one in (GPT2, GPTJ, Llama)}


def family_type(model_type: object) -> type[GPT2] | type[GPTJ] | type[Llama]:
    """The family of a configuration's model_type; ModelError for one that is unknown."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        *names, last = FAMILIES
        said = short(repr(model_type))
        raise ModelError(f"model family {said} is not supported; expected {', '.join(names)} or {last}")
    return FAMILIES[model_type]


def refuse_quantised(settings: object) -> None:
    """Raise ModelError where a configuration's `quantization_config` says anything."""
    if settings:
        raise ModelError("quantised weights are not supported; give the model in float32, float16 or bfloat16")


def family_of(config: Any) -> AnyFamily:
    """The family with what a transformers configuration says of it.

    Raises ModelError for an unknown family, quantised weights, and a configuration that the pass does not compute.
    """
    refuse_quantised(getattr(config, "quantization_config", None))
    kind = family_type(config.model_type)
    for key, value in kind.required.items():
        found = getattr(config, key, value)
        if found != value:
            raise ModelError(f"configuration {key} = {found!r} is not supported; expected {value!r}")
    return kind.of(config)
