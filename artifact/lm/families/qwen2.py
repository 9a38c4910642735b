"""Qwen2: Llama with biases on queries, keys and values alone; covers Qwen2 and Qwen2.5.

Where some layers have a sliding window (use_sliding_window), a text may be as long as the window.
"""

from typing import Any, ClassVar

from artifact.lm.families.llama import Llama


class Qwen2(Llama):
    """Family of Qwen2 and Qwen2.5 in all sizes."""

    model_type = "qwen2"
    sizes_read = {**Llama.sizes_read, "sliding_window": "positions"}
    sizes_optional = Llama.sizes_optional | {"sliding_window"}
    also_read: ClassVar[tuple[str, ...]] = (*Llama.also_read, "use_sliding_window")

    def biased(self, part: str) -> bool:
        return part in ("attn_query", "attn_key", "attn_value")

    @classmethod
    def window(cls, config: Any) -> int | None:
        return config.sliding_window if config.use_sliding_window else None


FAMILY = Qwen2
