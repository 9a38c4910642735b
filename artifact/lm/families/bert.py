"""BERT: an encoder. All tokens see each other, norms stand on sums, and a transform comes before the output layer."""

import re
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.nn import functional as F

from artifact.lm.decoder import Decoder
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import USUAL, Sizes, head_width
from artifact.lm.family import RowEdits

_PARTS = {
    "attn_query": "attention.self.query",
    "attn_key": "attention.self.key",
    "attn_value": "attention.self.value",
    "attn_out": "attention.output.dense",
    "attn_sum": "attention.output.LayerNorm",
    "mlp_up": "intermediate.dense",
    "mlp_down": "output.dense",
    "mlp_sum": "output.LayerNorm",
}


class Bert(Base):
    """Family of BERT in all sizes, with its masked-language-model head; a text is of the first token type."""

    model_type = "bert"
    causal = False
    parts = _PARTS
    parallel = False
    input_first = False
    rms_norm = False
    blocks = "bert.encoder.layer"
    embedding = "bert.embeddings.word_embeddings"
    final_norm = "cls.predictions.transform.LayerNorm"
    head = "cls.predictions.decoder"
    head_bias = "cls.predictions.bias"
    transform = "cls.predictions.transform.dense"
    """The layer before the final norm."""
    first_position = 0
    """The row of the table of positions that a text's first token takes."""
    activated = "mlp_up"
    neurons = "key"  # as the published code of Knowledge Neurons reads them in BERT
    renamed = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    sizes_read = {**USUAL, "type_vocab_size": "vocabulary"}
    also_read: ClassVar[tuple[str, ...]] = ("layer_norm_eps",)
    buffers = re.compile(
        r"bert\.(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
        r"|cls\.(seq_relationship\.(weight|bias)|predictions\.decoder\.bias)"
    )
    required = {
        "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh"),
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,  # else transformers takes another bias of the output layer
    }

    def __init__(self, token_types: int, *, exact: bool) -> None:
        self._token_types = token_types
        self._approximate = self._transform_approximate = "none" if exact else "tanh"

    @classmethod
    def of(cls, config: Any) -> Self:
        """The family as a configuration has it; ModelError for heads that do not divide the width."""
        head_width(config.hidden_size, config.num_attention_heads)
        return cls(config.type_vocab_size, exact=config.hidden_act == "gelu")

    def sizes(self, config: Any) -> Sizes:
        return Sizes.of(config, config.intermediate_size, config.layer_norm_eps)

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        width, inner = sizes.width, sizes.inner
        attention = dict.fromkeys(("attn_query", "attn_key", "attn_value", "attn_out"), (width, width))
        return {**attention, "mlp_up": (inner, width), "mlp_down": (width, inner)}

    def _embeddings(self, part: str) -> str:
        """The name of a tensor of the embeddings."""
        return f"{self.embedding.rpartition('.')[0]}.{part}"

    def tensors(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        width, positions = sizes.width, sizes.positions + self.first_position
        return super().tensors(sizes) | {
            self._embeddings("position_embeddings.weight"): (positions, width),
            self._embeddings("token_type_embeddings.weight"): (self._token_types, width),
            self._embeddings("LayerNorm.weight"): (width,),
            self._embeddings("LayerNorm.bias"): (width,),
            f"{self.transform}.weight": (width, width),
            f"{self.transform}.bias": (width,),
            self.head_bias: (sizes.vocabulary,),
        }

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        weights = decoder.weights
        position_XTD = F.embedding(
            position_XT + self.first_position, weights[self._embeddings("position_embeddings.weight")]
        )
        # The order of this sum is transformers', so that float32 results agree to the last bits.
        sum_BTD = word_BTD + weights[self._embeddings("token_type_embeddings.weight")][0] + position_XTD
        return decoder.norm(self._embeddings("LayerNorm"), sum_BTD)

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        return self.apart(decoder, layer, normed_BTD, edits, decoder.heads)

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.gelu(up_XM, approximate=self._approximate)

    def ending(self, decoder: Decoder, hidden_ND: Tensor) -> Tensor:
        transformed_ND = decoder.linear(self.transform, hidden_ND, {})
        return decoder.norm(self.final_norm, F.gelu(transformed_ND, approximate=self._transform_approximate))


FAMILY = Bert
