"""GPT-2: sequential blocks, learned positions, one projection for queries, keys and values, weights (I, O)."""

import re
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder
from artifact.lm.families.base import GPT
from artifact.lm.families.sizes import Sizes, head_width
from artifact.lm.family import RowEdits

_PARTS = {
    "attn_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attn_in": "attn.c_attn",
    "attn_out": "attn.c_proj",
    "mlp_up": "mlp.c_fc",
    "mlp_down": "mlp.c_proj",
}


class GPT2(GPT):
    """Family of openai-community/gpt2 in all sizes and of the embedded world."""

    model_type = "gpt2"
    parts = _PARTS
    parallel = False
    input_first = True
    rms_norm = False
    buffers = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
    required = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}

    @classmethod
    def of(cls, config: Any) -> "GPT2":
        """The family as a configuration has it; ModelError for heads that do not divide the width."""
        head_width(config.n_embd, config.n_head)
        return cls()

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, int]]:
        width, inner = sizes.width, sizes.inner
        up, down = (width, inner), (inner, width)
        return {"attn_in": (width, 3 * width), "attn_out": (width, width), "mlp_up": up, "mlp_down": down}

    def tensors(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return super().tensors(sizes) | {"transformer.wpe.weight": (sizes.positions, sizes.width)}

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD + F.embedding(position_XT, decoder.weights["transformer.wpe.weight"])

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        fused = decoder.linear(self.name("attn_in", layer), normed_BTD, edits)
        return tuple(decoder.heads_apart(part_BTD) for part_BTD in fused.chunk(3, dim=-1))


FAMILY = GPT2
