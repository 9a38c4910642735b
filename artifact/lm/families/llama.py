"""Llama: gated MLP, root-mean-square norms, rotary positions over the whole head in halves, grouped key/value heads.

Covers Llama 2 and 3, SmolLM2 and what else transformers calls `llama`, with biases or without, output layer tied or
not, rotary frequencies plain or scaled as Llama 3.1 scales them. Other scalings and activation functions are refused.

Shape letters as in lm/decoder.py, and F rotary frequency (K/2 of them, one a pair of a head's entries).
"""

import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artifact.errors import ModelError
from artifact.lm.decoder import Decoder, RowEdits
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import Sizes

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


class Llama(Base):
    """Family of Llama 2 and 3 and of SmolLM2.

    `key_heads` is the number of heads that keys and values have (each serves heads/key_heads queries), `frequency_F`
    the angle by which a pair of entries turns from one position to the next.
    """

    model_type = "llama"
    parts = _PARTS
    parallel = False
    input_first = False
    rms_norm = True
    blocks = "model.layers"
    embedding = "model.embed_tokens"
    final_norm = "model.norm"
    activated = "mlp_gate"
    sizes_read = {
        "num_hidden_layers": "layers",
        "hidden_size": "width",
        "num_attention_heads": "heads",
        "num_key_value_heads": "heads",
        "head_dim": "width",
        "intermediate_size": "width",
        "max_position_embeddings": "positions",
        "vocab_size": "vocabulary",
    }
    sizes_optional = frozenset({"num_key_value_heads", "head_dim"})
    also_read = (
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "attention_bias",
        "mlp_bias",
    )
    buffers = re.compile(
        r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
    )
    required = {"hidden_act": "silu"}

    def __init__(
        self, key_heads: int, frequency_F: Tensor, *, head_width: int = 0, biases: tuple[bool, bool] = (False, False)
    ) -> None:
        self.key_heads = key_heads
        self._frequency_F = frequency_F
        self._head_width = head_width
        self._attention_bias, self._mlp_bias = biases

    @classmethod
    def of(cls, config: Any) -> "Llama":
        """The family as a configuration has it; ModelError for heads that do not fit and for an unknown scaling."""
        heads, groups, wide = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        if heads % groups:
            raise ModelError(f"the configuration's {groups} key/value heads do not divide its {heads} heads")
        if wide % 2:
            raise ModelError(f"heads of width {wide} cannot be rotated in pairs; expected an even number")
        biases = bool(config.attention_bias), bool(config.mlp_bias)
        return cls(groups, frequencies(wide, config.rope_parameters), head_width=wide, biases=biases)

    def sizes(self, config: Any) -> Sizes:
        return Sizes.of(config, config.intermediate_size, config.rms_norm_eps)

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, int]]:
        width, inner = sizes.width, sizes.inner
        queries, keys = sizes.heads * self._head_width, self.key_heads * self._head_width
        return {
            "attn_query": (queries, width),
            "attn_key": (keys, width),
            "attn_value": (keys, width),
            "attn_out": (width, queries),
            "mlp_gate": (inner, width),
            "mlp_up": (inner, width),
            "mlp_down": (width, inner),
        }

    def biased(self, part: str) -> bool:
        return not part.endswith("norm") and (self._attention_bias if part.startswith("attn") else self._mlp_bias)

    def projections(
        self, decoder: Decoder, layer: int, normed_BTD: Tensor, position_XT: Tensor, edits: RowEdits
    ) -> tuple[Tensor, ...]:
        query, key, value = self.apart(decoder, layer, normed_BTD, edits, self.key_heads)
        return self.rotate(query, position_XT), self.rotate(key, position_XT), value

    def key(self, decoder: Decoder, layer: int, up_XM: Tensor, normed_XD: Tensor, edits: RowEdits) -> Tensor:
        return F.silu(up_XM) * decoder.linear(self.name("mlp_up", layer), normed_XD, edits)

    def rotate(self, x_BHTK: Tensor, position_XT: Tensor) -> Tensor:
        """Rotate the pairs (i, i + K/2) of each head by position times the pair's frequency."""
        position = position_XT[:, None, :, None].float()  # spread over heads and pairs
        angle = position * self._frequency_F.to(x_BHTK.device)
        cos, sin = angle.cos().to(x_BHTK.dtype), angle.sin().to(x_BHTK.dtype)
        first, second = x_BHTK.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def frequencies(head_width: int, given: dict[str, Any]) -> Tensor:
    """Rotary frequencies (F,) in float32 from transformers' `rope_parameters`: theta^(-2i/K), or Llama 3.1's.

    Llama 3.1 divides the frequencies of wavelengths beyond the original context by `factor`, leaves the short ones,
    and goes over from one to the other between. Raises ModelError for any other scaling, and for values that give no
    frequencies.
    """
    kind = given.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ModelError(
            f"rotary positions of type {kind!r} are not supported; expected default or llama3; give another model"
        )
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("rotary positions on a part of each head are not supported in a llama; give another model")
    pair_F = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    frequency_F = 1.0 / _positive(given, "rope_theta") ** pair_F
    if kind == "llama3":
        frequency_F = _scaled(frequency_F, given)
    if not frequency_F.isfinite().all():
        raise ModelError("the configuration's rotary values give frequencies that are not finite; give another model")
    return frequency_F


def _scaled(frequency_F: Tensor, given: dict[str, Any]) -> Tensor:
    context, low, high = (
        _positive(given, key) for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    if low >= high:
        raise ModelError(f"configuration low_freq_factor = {low} must be below high_freq_factor = {high}")
    turns_F = context * frequency_F / (2 * math.pi)  # how often a pair turns round within the original context
    kept_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return kept_F * frequency_F + (1 - kept_F) * frequency_F / _positive(given, "factor")


def _positive(given: dict[str, Any], key: str) -> int | float:
    value = given.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ModelError(f"configuration {key} = {value!r} is not possible; expected a positive number")
    return value


FAMILY = Llama
