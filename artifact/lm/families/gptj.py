"""GPT-J: attention and MLP in parallel on one norm, rotary positions on the first `rotary` entries of each head."""

import re
from typing import Any

import torch
from torch import Tensor

from artifact.errors import ModelError
from artifact.lm.decoder import Decoder
from artifact.lm.families.base import GPT
from artifact.lm.families.rotary import Rotary
from artifact.lm.families.sizes import Sizes, head_width
from artifact.lm.family import RowEdits

_PARTS = {
    "attn_norm": "ln_1",
    "attn_query": "attn.q_proj",
    "attn_key": "attn.k_proj",
    "attn_value": "attn.v_proj",
    "attn_out": "attn.out_proj",
    "mlp_up": "mlp.fc_in",
    "mlp_down": "mlp.fc_out",
}


class GPTJ(GPT):
    """Family of EleutherAI/gpt-j-6b."""

    model_type = "gptj"
    parts = _PARTS
    parallel = True
    input_first = False
    rms_norm = False
    sizes_read = {**GPT.sizes_read, "rotary_dim": "width"}
    sizes_optional = GPT.sizes_optional | {"rotary_dim"}
    buffers = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)")
    required = {"activation_function": "gelu_new"}

    def __init__(self, rotary: int) -> None:
        pair_F = torch.arange(0, rotary, 2, dtype=torch.float32)
        self.rotary = Rotary(10000.0 ** (-pair_F / rotary), neighbours=True)

    @classmethod
    def of(cls, config: Any) -> "GPTJ":
        """The family as a configuration has it; ModelError for heads or a rotary width that do not fit the model's."""
        wide, rotary = head_width(config.n_embd, config.n_head), config.rotary_dim
        if not rotary:
            raise ModelError("gptj without rotary_dim is not supported; expected a number, as in GPT-J 6B's 64")
        if rotary % 2 or rotary > wide:
            raise ModelError(f"rotary_dim {rotary} does not fit heads of width {wide}; expected an even one up to it")
        return cls(rotary)

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, int]]:
        width, inner = sizes.width, sizes.inner
        attention = dict.fromkeys(("attn_query", "attn_key", "attn_value", "attn_out"), (width, width))
        return {**attention, "mlp_up": (inner, width), "mlp_down": (width, inner)}

    def biased(self, part: str) -> bool:
        return part == "attn_norm" or part.startswith("mlp")

    def tensors(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return super().tensors(sizes) | {f"{self.head}.bias": (sizes.vocabulary,)}

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        query, key, value = self.apart(decoder, layer, normed_BTD, edits, decoder.heads)
        return self.rotate(query, position_XT), self.rotate(key, position_XT), value


FAMILY = GPTJ
