"""Gemma 3's language model: Gemma 2 with norms on each head of queries and keys, and layers of two kinds.

Layers that see a sliding window have rotary positions of their own. A text may be as long as the window. The models
that read images too (model_type gemma3) are not covered.
"""

from typing import Any, ClassVar, Self

from torch import Tensor

from artifact.errors import ModelError
from artifact.lm.families.gemma2 import Gemma2
from artifact.lm.families.qwen3 import Qwen3
from artifact.lm.families.rotary import Rotary, rotary_of
from artifact.lm.families.sizes import Sizes
from artifact.terminal import short

_NEAR, _FAR = "sliding_attention", "full_attention"


class Gemma3(Gemma2):
    """Family of the Gemma 3 models that read text alone."""

    model_type = "gemma3_text"
    parts = {**Gemma2.parts, **{part: Qwen3.parts[part] for part in ("attn_query_norm", "attn_key_norm")}}
    also_read: ClassVar[tuple[str, ...]] = (
        *Gemma2.also_read,
        "rope_local_base_freq",
        "layer_types",
        "sliding_window_pattern",
    )
    # transformers' model ignores such a cap, and no published one has it.
    required = {**Gemma2.required, "attn_logit_softcapping": None}
    near: Rotary
    kinds: tuple[str, ...]
    """Of each layer: whether it sees a window, or everything."""

    @classmethod
    def of(cls, config: Any) -> Self:
        both, kinds = config.rope_parameters, config.layer_types
        if not isinstance(kinds, list) or len(kinds) != config.num_hidden_layers or {*kinds} - {_NEAR, _FAR}:
            raise ModelError(
                f"configuration layer_types = {short(repr(kinds), 60)} is not supported; expected {_NEAR} or {_FAR} "
                "for each layer"
            )
        family = super().of(config)
        family.kinds = tuple(kinds)
        family.near = rotary_of(family._head_width, both[_NEAR], config.max_position_embeddings)
        return family

    @classmethod
    def rotations(cls, config: Any) -> Any:
        return config.rope_parameters[_FAR]

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        each = (self._head_width,)
        return {**super().linear(sizes), "attn_query_norm": each, "attn_key_norm": each}

    def rotate(self, x_BHTK: Tensor, position_XT: Tensor, layer: int = 0) -> Tensor:
        return (self.near if self.kinds[layer] == _NEAR else self.rotary).turn(x_BHTK, position_XT)


FAMILY = Gemma3
