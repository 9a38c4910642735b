"""GPT-NeoX: attention and MLP in parallel or one after the other, each with its norm, rotary positions on a share of
each head, one projection for queries, keys and values, head by head.
"""

import re
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder
from artifact.lm.families.base import Base
from artifact.lm.families.rotary import Rotary, rotary_of
from artifact.lm.families.sizes import ORIGINAL, USUAL, Sizes, head_width
from artifact.lm.family import RowEdits

_PARTS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn_in": "attention.query_key_value",
    "attn_out": "attention.dense",
    "mlp_up": "mlp.dense_h_to_4h",
    "mlp_down": "mlp.dense_4h_to_h",
}


class GPTNeoX(Base):
    """Family of GPT-NeoX 20B and of Pythia in all sizes."""

    model_type = "gpt_neox"
    parts = _PARTS
    input_first = False
    rms_norm = False
    blocks = "gpt_neox.layers"
    embedding = "gpt_neox.embed_in"
    final_norm = "gpt_neox.final_layer_norm"
    head = "embed_out"
    also_head = "lm_head"
    activated = "mlp_up"
    sizes_read = {**USUAL, ORIGINAL: "positions"}
    sizes_optional = frozenset({ORIGINAL})
    also_read = (
        "layer_norm_eps",
        "use_parallel_residual",
        "attention_bias",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rotary_emb_base",
        "rotary_pct",
    )
    buffers = re.compile(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)")
    required = {"hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")}

    def __init__(self, rotary: Rotary, *, parallel: bool, attention_bias: bool, exact: bool) -> None:
        self.rotary = rotary
        self.parallel = parallel
        self._attention_bias = attention_bias
        self._approximate = "none" if exact else "tanh"

    @classmethod
    def of(cls, config: Any) -> "GPTNeoX":
        """The family as a configuration has it; ModelError for heads that do not divide the width, and for an unknown
        scaling.
        """
        wide = head_width(config.hidden_size, config.num_attention_heads)
        return cls(
            rotary_of(wide, config.rope_parameters, config.max_position_embeddings, partial=True),
            parallel=bool(config.use_parallel_residual),
            attention_bias=bool(config.attention_bias),
            exact=config.hidden_act == "gelu",
        )

    def sizes(self, config: Any) -> Sizes:
        sizes = Sizes.of(config, config.intermediate_size, config.layer_norm_eps)
        return sizes.up_to(self.rotary.longest, "rope_parameters")

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        width, inner = sizes.width, sizes.inner
        attention = {"attn_in": (3 * width, width), "attn_out": (width, width)}
        return {**attention, "mlp_up": (inner, width), "mlp_down": (width, inner)}

    def biased(self, part: str) -> bool:
        return self._attention_bias or part not in ("attn_in", "attn_out")

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        fused_BHTX = decoder.heads_apart(decoder.project("attn_in", layer, normed_BTD, edits))
        query, key, value = fused_BHTX.chunk(3, dim=-1)
        return self.rotate(query, position_XT), self.rotate(key, position_XT), value

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_XM, approximate=self._approximate)


FAMILY = GPTNeoX
