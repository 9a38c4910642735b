"""Phi-3: Llama with queries, keys and values in one projection, and the MLP's gate and up-projection in one.

Covers Phi-3, Phi-3.5 and Phi-4 in their sizes that transformers calls `phi3`, rotary positions on a share of each head
too. With longrope a text may be as long as the original context.
"""

from itertools import accumulate, pairwise
from typing import Any, Self

from artifact.lm.families.llama import Llama
from artifact.lm.families.sizes import ORIGINAL, Sizes

_FUSED = (("attn_query", "attn_key", "attn_value"), ("mlp_gate", "mlp_up"))
"""Parts that are one layer, one after the other in its outputs."""


class Phi3(Llama):
    """Family of Phi-3 mini and medium, Phi-3.5 mini, and Phi-4."""

    model_type = "phi3"
    partial = True
    parts = {
        **Llama.parts,
        "attn_query": "self_attn.qkv_proj",
        "attn_key": "self_attn.qkv_proj",
        "attn_value": "self_attn.qkv_proj",
        "mlp_gate": "mlp.gate_up_proj",
        "mlp_up": "mlp.gate_up_proj",
    }
    sizes_read = {**Llama.sizes_read, "sliding_window": "positions"}
    sizes_optional = (Llama.sizes_optional - {ORIGINAL}) | {"sliding_window"}
    required = {**Llama.required, "attention_bias": False, "mlp_bias": False}
    _rows: dict[str, slice]

    @classmethod
    def of(cls, config: Any) -> Self:
        family = super().of(config)
        apart = Llama.linear(family, family.sizes(config))
        family._rows = {}
        for parts in _FUSED:
            edges = list(accumulate((apart[part][0] for part in parts), initial=0))
            family._rows |= {part: slice(*pair) for part, pair in zip(parts, pairwise(edges), strict=True)}
        return family

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        apart = super().linear(sizes)
        whole = {part: sum(apart[one][0] for one in parts) for parts in _FUSED for part in parts}
        return {**apart, **{part: (rows, sizes.width) for part, rows in whole.items()}}

    def rows(self, part: str) -> slice | None:
        return self._rows.get(part)


FAMILY = Phi3
