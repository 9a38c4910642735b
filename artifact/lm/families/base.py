"""What families share: names of parts and separate projections, and the names and settings of GPT-2 and GPT-J."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder, RowEdits
from artifact.lm.families.sizes import Sizes


class Base:
    """Names of parts by layer, an embedding of words alone, and separate projections for queries, keys and values."""

    blocks: str
    parts: ClassVar[Mapping[str, str]]
    """The name of each part within its block."""
    head = "lm_head"

    @classmethod
    def name(cls, part: str, layer: int) -> str:
        return f"{cls.blocks}.{layer}.{cls.parts[part]}"

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD

    def apart(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, edits: RowEdits, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, `key_heads`, T, K), not rotated yet."""

        def heads(part: str, count: int) -> Tensor:
            return decoder.heads_apart(decoder.linear(self.name(part, layer), normed_BTD, edits), count)

        return heads("attn_query", decoder.heads), heads("attn_key", key_heads), heads("attn_value", key_heads)


class GPT(Base):
    """Names, configuration keys and activation that GPT-2 and GPT-J share."""

    blocks = "transformer.h"
    embedding = "transformer.wte"
    final_norm = "transformer.ln_f"
    activated = "mlp_up"
    sizes_read: ClassVar[Mapping[str, str]] = {
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

    def sizes(self, config: Any) -> Sizes:
        return Sizes.of(config, config.n_inner, config.layer_norm_epsilon)

    def key(self, decoder: Decoder, layer: int, up_BTM: Tensor, normed_BTD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_BTM, approximate="tanh")
