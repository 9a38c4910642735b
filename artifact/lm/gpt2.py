"""GPT-2: sequential blocks, learned positions, one projection for queries, keys and values, weights (I, O)."""

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder, RowEdits

_PARTS = {
    "attn_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attn_in": "attn.c_attn",
    "attn_out": "attn.c_proj",
    "mlp_up": "mlp.c_fc",
    "mlp_down": "mlp.c_proj",
}


class GPT2:
    """Family of openai-community/gpt2 in all sizes and of the embedded world."""

    parallel = False
    input_first = True
    rms_norm = False
    blocks = "transformer.h"
    embedding = "transformer.wte"
    final_norm = "transformer.ln_f"
    activated = "mlp_up"
    required = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    """Configuration that the pass assumes; another value is refused at loading."""

    def name(self, part: str, layer: int) -> str:
        return f"{self.blocks}.{layer}.{_PARTS[part]}"

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD + F.embedding(position_XT, decoder.weights["transformer.wpe.weight"])

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        fused = decoder.linear(self.name("attn_in", layer), normed_BTD, edits)
        return tuple(decoder.heads_apart(part_BTD) for part_BTD in fused.chunk(3, dim=-1))

    def key(self, decoder: Decoder, layer: int, up_BTM: Tensor, normed_BTD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_BTM, approximate="tanh")
