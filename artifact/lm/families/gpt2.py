"""GPT-2: sequential blocks, learned positions, one projection for queries, keys and values, weights (I, O)."""

import re
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder, RowEdits
from artifact.lm.families.sizes import Sizes, head_width

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

    model_type = "gpt2"
    parallel = False
    input_first = True
    rms_norm = False
    blocks = "transformer.h"
    embedding = "transformer.wte"
    final_norm = "transformer.ln_f"
    head = "lm_head"
    activated = "mlp_up"
    sizes_read = {
        "n_layer": "layers",
        "num_hidden_layers": "layers",
        "n_embd": "width",
        "hidden_size": "width",
        "n_head": "heads",
        "num_attention_heads": "heads",
        "n_positions": "positions",
        "max_position_embeddings": "positions",
        "vocab_size": "vocabulary",
        "n_inner": "width",
    }
    """Configuration keys that are sizes, and of which kind (sizes.BOUNDS)."""
    sizes_optional = frozenset({"n_inner"})
    also_read = ("layer_norm_epsilon",)
    """What else of the configuration decides the pass, beside `required`."""
    buffers = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
    """Tensors that files carry and the pass does not need: causal masks."""
    required = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    """Configuration that the pass assumes; another value is refused at loading."""

    @classmethod
    def of(cls, config: Any) -> "GPT2":
        """The family as a configuration has it; ModelError for heads that do not divide the width."""
        head_width(config.n_embd, config.n_head)
        return cls()

    def sizes(self, config: Any) -> Sizes:
        return Sizes.of(config, config.n_inner, config.layer_norm_epsilon)

    def tensors(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Every tensor that a file must hold, but the head, with its shape."""
        width, inner = sizes.width, sizes.inner
        found: dict[str, tuple[int, ...]] = {
            f"{self.embedding}.weight": (sizes.vocabulary, width),
            "transformer.wpe.weight": (sizes.positions, width),
        }
        linear = {
            "attn_in": (width, 3 * width),
            "attn_out": (width, width),
            "mlp_up": (width, inner),
            "mlp_down": (inner, width),
        }
        for layer in range(sizes.layers):
            for part in ("attn_norm", "mlp_norm"):
                name = self.name(part, layer)
                found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
            for part, shape in linear.items():
                name = self.name(part, layer)
                found |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
        return found | {f"{self.final_norm}.weight": (width,), f"{self.final_norm}.bias": (width,)}

    @classmethod
    def name(cls, part: str, layer: int) -> str:
        return f"{cls.blocks}.{layer}.{_PARTS[part]}"

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD + F.embedding(position_XT, decoder.weights["transformer.wpe.weight"])

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        fused = decoder.linear(self.name("attn_in", layer), normed_BTD, edits)
        return tuple(decoder.heads_apart(part_BTD) for part_BTD in fused.chunk(3, dim=-1))

    def key(self, decoder: Decoder, layer: int, up_BTM: Tensor, normed_BTD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_BTM, approximate="tanh")
