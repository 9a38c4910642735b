"""OLMo 2: Llama with norms on what attention and MLP give instead of on what they read, and on all queries and keys."""

import torch
from torch import Tensor

from artifact.lm.families.llama import Llama
from artifact.lm.families.sizes import Sizes

_KEPT = {part: name for part, name in Llama.parts.items() if part not in ("attn_norm", "mlp_norm")}


class Olmo2(Llama):
    """Family of OLMo 2 in all sizes."""

    model_type = "olmo2"
    parts = {
        **_KEPT,
        "attn_query_norm": "self_attn.q_norm",
        "attn_key_norm": "self_attn.k_norm",
        "attn_after": "post_attention_layernorm",
        "mlp_after": "post_feedforward_layernorm",
    }

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        shapes = super().linear(sizes)
        return {**shapes, "attn_query_norm": shapes["attn_query"][:1], "attn_key_norm": shapes["attn_key"][:1]}

    def scaled(self, weight_D: Tensor, wide_XD: Tensor, dtype: torch.dtype) -> Tensor:
        return (weight_D * wide_XD).to(dtype)


FAMILY = Olmo2
