"""Llama: gated MLP, root-mean-square norms, rotary positions over the whole head in halves, grouped key/value heads.

Covers Llama 2 and 3, SmolLM2 and what else transformers calls `llama`, with biases or without, output layer tied or
not, rotary frequencies plain or scaled (rotary.py); and what the families that differ from it in little share with it
(Mistral, Qwen, OLMo 2, Gemma, Phi-3: a file each). Other activation functions are refused.
"""

import re
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.nn import functional as F

from artifact.errors import ModelError
from artifact.lm.decoder import Decoder
from artifact.lm.families.base import Base
from artifact.lm.families.rotary import Rotary, rotary_of
from artifact.lm.families.sizes import ORIGINAL, USUAL, Sizes, head_width
from artifact.lm.family import RowEdits

_PARTS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn_query": "self_attn.q_proj",
    "attn_key": "self_attn.k_proj",
    "attn_value": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "mlp_gate": "mlp.gate_proj",
    "mlp_up": "mlp.up_proj",
    "mlp_down": "mlp.down_proj",
}


class Llama(Base):
    """Family of Llama 2 and 3 and of SmolLM2.

    `key_heads` is the number of heads that keys and values have (each serves heads/key_heads queries).
    """

    model_type = "llama"
    partial: ClassVar[bool] = False
    """Whether rotary positions may turn a part of each head."""
    parts = _PARTS
    parallel = False
    input_first = False
    rms_norm = True
    blocks = "model.layers"
    embedding = "model.embed_tokens"
    final_norm = "model.norm"
    activated = "mlp_gate"
    sizes_read = {**USUAL, "num_key_value_heads": "heads", "head_dim": "width", ORIGINAL: "positions"}
    sizes_optional = frozenset({"num_key_value_heads", "head_dim", ORIGINAL})
    also_read: ClassVar[tuple[str, ...]] = (
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "attention_bias",
        "mlp_bias",
    )
    buffers = re.compile(
        r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
    )
    required = {"hidden_act": "silu"}

    def __init__(
        self, key_heads: int, rotary: Rotary, *, head_width: int = 0, biases: tuple[bool, bool] = (False, False)
    ) -> None:
        self.key_heads = key_heads
        self.rotary = rotary
        self._head_width = head_width
        self._attention_bias, self._mlp_bias = biases

    @classmethod
    def of(cls, config: Any) -> Self:
        """The family as a configuration has it; ModelError for heads that do not fit and for an unknown scaling."""
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        if heads % groups:
            raise ModelError(f"the configuration's {groups} key/value heads do not divide its {heads} heads")
        wide = getattr(config, "head_dim", None) or head_width(config.hidden_size, heads)
        rotary = rotary_of(wide, cls.rotations(config), config.max_position_embeddings, partial=cls.partial)
        biases = bool(getattr(config, "attention_bias", False)), bool(getattr(config, "mlp_bias", False))
        return cls(groups, rotary, head_width=wide, biases=biases)

    def sizes(self, config: Any) -> Sizes:
        sizes = Sizes.of(config, config.intermediate_size, config.rms_norm_eps)
        return sizes.up_to(self.rotary.longest, "rope_parameters").up_to(self.window(config), "sliding_window")

    @classmethod
    def rotations(cls, config: Any) -> dict[str, Any]:
        """transformers' description of the rotary positions."""
        return config.rope_parameters

    @classmethod
    def window(cls, config: Any) -> int | None:
        """Tokens back to which some layers see; None where all see everything."""
        return getattr(config, "sliding_window", None)

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        width, inner = sizes.width, sizes.inner
        queries, keys = sizes.heads * self._head_width, self.key_heads * self._head_width
        return {
            "attn_query": (queries, width),
            "attn_key": (keys, width),
            "attn_value": (keys, width),
            "attn_out": (width, queries),
            "mlp_gate": (inner, width),
            "mlp_up": (inner, width),
            "mlp_down": (width, inner),
        }

    def biased(self, part: str) -> bool:
        if part.endswith(("norm", "after")):
            return False
        return self._attention_bias if part.startswith("attn") else self._mlp_bias

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        query, key, value = self.apart(decoder, layer, normed_BTD, edits, self.key_heads)
        return self.rotate(query, position_XT, layer), self.rotate(key, position_XT, layer), value

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.silu(up_XM) * decoder.project("mlp_up", layer, normed_XD, edits)


FAMILY = Llama
