"""Llama: gated MLP, root-mean-square norms, rotary positions over the whole head in halves, grouped key/value heads.

Covers Llama 2 and 3, SmolLM2 and what else transformers calls `llama`, with biases or without, output layer tied or
not, rotary frequencies plain or scaled as Llama 3.1 scales them. Other scalings and activation functions are refused.

Shape letters as in lm/decoder.py, and F rotary frequency (K/2 of them, one a pair of a head's entries).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.errors import ModelError
from artifact.lm.decoder import Decoder, RowEdits

_PARTS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn_query": "self_attn.q_proj",
    "attn_key": "self_attn.k_proj",
    "attn_value": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "mlp_gate": "mlp.gate_proj",
    "mlp_up": "mlp.up_proj",
    "mlp_down": "mlp.down_proj",
}


class Llama:
    """Family of Llama 2 and 3 and of SmolLM2.

    `key_heads` is the number of heads that keys and values have (each serves heads/key_heads queries), `frequency_F`
    the angle by which a pair of entries turns from one position to the next.
    """

    parallel = False
    input_first = False
    rms_norm = True
    blocks = "model.layers"
    embedding = "model.embed_tokens"
    final_norm = "model.norm"
    activated = "mlp_gate"
    required = {"hidden_act": "silu"}

    def __init__(self, key_heads: int, frequency_F: Tensor) -> None:
        self.key_heads = key_heads
        self._frequency_F = frequency_F

    @classmethod
    def of(cls, config: Any) -> "Llama":
        """The family with the heads and frequencies of a configuration; ModelError for an unknown scaling."""
        return cls(config.num_key_value_heads, frequencies(config.head_dim, config.rope_parameters))

    def name(self, part: str, layer: int) -> str:
        return f"{self.blocks}.{layer}.{_PARTS[part]}"

    def embed(self, decoder: Decoder, word_BTD: Tensor, position_XT: Tensor) -> Tensor:
        return word_BTD

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        query, key, value = (
            decoder.heads_apart(decoder.linear(self.name(f"attn_{part}", layer), normed_BTD, edits), heads)
            for part, heads in (("query", decoder.heads), ("key", self.key_heads), ("value", self.key_heads))
        )
        return self._rotate(query, position_XT), self._rotate(key, position_XT), value

    def key(self, decoder: Decoder, layer: int, up_BTM: Tensor, normed_BTD: Tensor, edits: RowEdits) -> Tensor:
        return F.silu(up_BTM) * decoder.linear(self.name("mlp_up", layer), normed_BTD, edits)

    def _rotate(self, x_BHTK: Tensor, position_XT: Tensor) -> Tensor:
        """Rotate the pairs (i, i + K/2) of each head by position times the pair's frequency."""
        position = position_XT[:, None, :, None].float()  # spread over heads and pairs
        angle = position * self._frequency_F.to(x_BHTK.device)
        cos, sin = angle.cos().to(x_BHTK.dtype), angle.sin().to(x_BHTK.dtype)
        first, second = x_BHTK.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def frequencies(head_width: int, given: dict[str, Any]) -> Tensor:
    """Rotary frequencies (F,) in float32 from transformers' `rope_parameters`: theta^(-2i/K), or Llama 3.1's.

    Llama 3.1 divides the frequencies of wavelengths beyond the original context by `factor`, leaves the short ones,
    and goes over from one to the other between. Raises ModelError for any other scaling.
    """
    kind = given.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ModelError(
            f"rotary positions of type {kind!r} are not supported; expected default or llama3; give another model"
        )
    pair_F = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    frequency_F = 1.0 / given["rope_theta"] ** pair_F
    if kind == "default":
        return frequency_F
    context, low, high = (
        given[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    turns_F = context * frequency_F / (2 * math.pi)  # how often a pair turns round within the original context
    kept_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return kept_F * frequency_F + (1 - kept_F) * frequency_F / given["factor"]
