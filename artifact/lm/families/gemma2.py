"""Gemma 2: Llama with scaled embeddings, norms on both sides of each module, capped products and logits.

Every second layer has a sliding window, so a text may be as long as the window (sliding_window). The word embeddings
that tracing corrupts are those before their scale.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder
from artifact.lm.families.llama import Llama
from artifact.lm.families.rotary import positive
from artifact.lm.family import RowEdits


class Gemma2(Llama):
    """Family of Gemma 2 in all sizes."""

    model_type = "gemma2"
    parts = {
        **Llama.parts,
        "attn_after": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_after": "post_feedforward_layernorm",
    }
    sizes_read = {**Llama.sizes_read, "sliding_window": "positions"}
    sizes_optional = Llama.sizes_optional | {"sliding_window"}
    also_read: ClassVar[tuple[str, ...]] = (
        *Llama.also_read,
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    )
    required = {"hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": (None, False)}

    @classmethod
    def of(cls, config: Any) -> Self:
        family = super().of(config)
        given = {key: getattr(config, key) for key in cls.also_read if hasattr(config, key)}
        family.attention_scale = positive(given, "query_pre_attn_scalar") ** -0.5
        for key, name in (("attn_logit_softcapping", "attention_cap"), ("final_logit_softcapping", "logit_cap")):
            setattr(family, name, None if given[key] is None else positive(given, key))
        return family

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        # The factor is rounded to the model's type first, as in transformers.
        return word_BTD * float(torch.tensor(decoder.width**0.5, dtype=decoder.dtype))

    def scaled(self, weight_D: Tensor, wide_XD: Tensor, dtype: torch.dtype) -> Tensor:
        return (wide_XD * (1 + weight_D.float())).to(dtype)

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_XM, approximate="tanh") * decoder.project("mlp_up", layer, normed_XD, edits)


FAMILY = Gemma2
