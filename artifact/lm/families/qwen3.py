"""Qwen3: Llama with a norm on each head of queries and keys before their rotation."""

from artifact.lm.families.llama import Llama
from artifact.lm.families.qwen2 import Qwen2
from artifact.lm.families.sizes import Sizes


class Qwen3(Qwen2):
    """Family of the dense Qwen3 models."""

    model_type = "qwen3"
    parts = {**Llama.parts, "attn_query_norm": "self_attn.q_norm", "attn_key_norm": "self_attn.k_norm"}

    def linear(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        each = (self._head_width,)
        return {**super().linear(sizes), "attn_query_norm": each, "attn_key_norm": each}

    def biased(self, part: str) -> bool:
        return Llama.biased(self, part)


FAMILY = Qwen3
