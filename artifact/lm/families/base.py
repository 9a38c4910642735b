"""What families share: what loading asks of them, separate projections, and the names of GPT-2 and GPT-J."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder
from artifact.lm.families.rotary import Rotary
from artifact.lm.families.sizes import Sizes
from artifact.lm.family import Family, RowEdits


class Base(Family, ABC):
    """A family as loading sees it; where a family says nothing else, embeddings are of words alone, and queries, keys
    and values have a projection each.
    """

    model_type: ClassVar[str]
    """transformers' name of the family."""
    causal = True
    skips_padding = False
    """Whether its positions are counted over other tokens than padding."""
    parts: ClassVar[Mapping[str, str]]
    """The name of each part within its block."""
    head = "lm_head"
    head_bias = "lm_head.bias"
    also_head: ClassVar[str] = ""
    """Another name of the output layer, which some files or modules have."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Endings of tensors' names that older files have, and those of today."""
    neurons: Literal["up", "key"] = "up"
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    rotary: Rotary
    """Rotary positions, in a family that has them."""
    required: ClassVar[Mapping[str, object]]
    """Configuration that the pass assumes, one value or several in a tuple; another is refused at loading."""
    sizes_read: ClassVar[Mapping[str, str]]
    """Configuration keys that are sizes, and of which kind (sizes.BOUNDS)."""
    sizes_optional: ClassVar[frozenset[str]] = frozenset()
    also_read: ClassVar[tuple[str, ...]] = ()
    """What else of the configuration decides the pass, beside `required`."""
    buffers: ClassVar[re.Pattern[str]]
    """Tensors that files carry and the pass does not need, such as causal masks."""

    @classmethod
    @abstractmethod
    def of(cls, config: Any) -> Self:
        """The family as a configuration has it; ModelError for one that the pass does not compute."""

    @abstractmethod
    def sizes(self, config: Any) -> Sizes:
        """How large the model is."""

    @abstractmethod
    def linear(self, sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
        """The shapes of a block's linear layers by part, as files store them, and of norms of another width than the
        model's; all other parts are norms of that width.
        """

    def biased(self, part: str) -> bool:
        """Whether a part of a block has a bias."""
        return True

    def tensors(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Every tensor that a file must hold, but the head, with its shape."""
        linear, norm = self.linear(sizes), (sizes.width,)
        tensors: dict[str, tuple[int, ...]] = {f"{self.embedding}.weight": (sizes.vocabulary, sizes.width)}
        parts = [(self.name(part, at), part) for at in range(sizes.layers) for part in self.parts]
        for name, part in (*parts, (self.final_norm, "attn_norm")):
            shape = linear.get(part, norm)
            tensors[f"{name}.weight"] = shape
            if self.biased(part):
                tensors[f"{name}.bias"] = shape[-1:] if self.input_first else shape[:1]
        return tensors

    @classmethod
    def name(cls, part: str, layer: int) -> str:
        return f"{cls.blocks}.{layer}.{cls.parts[part]}"

    @classmethod
    def has(cls, part: str) -> bool:
        return part in cls.parts

    def rows(self, part: str) -> slice | None:
        return None

    def scaled(self, weight_D: Tensor, wide_XD: Tensor, dtype: torch.dtype) -> Tensor:
        return weight_D * wide_XD.to(dtype)

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD

    def ending(self, decoder: Decoder, hidden_ND: Tensor) -> Tensor:
        return decoder.norm(self.final_norm, hidden_ND)

    def rotate(self, x_BHTK: Tensor, position_XT: Tensor, layer: int = 0) -> Tensor:
        """Queries or keys of a layer, turned by their positions."""
        return self.rotary.turn(x_BHTK, position_XT)

    def apart(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, edits: RowEdits, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, `key_heads`, T, K), not rotated yet.

        Where the family norms queries or keys, its weight's width says whether each head is normed or all in one.
        """

        def heads(part: str, count: int) -> Tensor:
            x_BTD = decoder.project(part, layer, normed_BTD, edits)
            if self.has(f"{part}_norm"):
                norm = self.name(f"{part}_norm", layer)
                width = len(decoder.weights[f"{norm}.weight"])
                x_BTD = decoder.norm(norm, x_BTD.unflatten(-1, (-1, width))).flatten(-2)
            return decoder.heads_apart(x_BTD, count)

        return heads("attn_query", decoder.heads), heads("attn_key", key_heads), heads("attn_value", key_heads)


class GPT(Base):
    """Names, configuration keys and activation that GPT-2 and GPT-J share."""

    blocks = "transformer.h"
    embedding = "transformer.wte"
    final_norm = "transformer.ln_f"
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
    sizes_optional = frozenset({"n_inner"})
    also_read = ("layer_norm_epsilon",)

    def sizes(self, config: Any) -> Sizes:
        return Sizes.of(config, config.n_inner, config.layer_norm_epsilon)

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_XM, approximate="tanh")
