"""Mistral: Llama without biases, with a sliding window in some sizes.

A text may be as long as the window (sliding_window), up to which the model sees everything.
"""

from artifact.lm.families.llama import Llama


class Mistral(Llama):
    """Family of Mistral 7B and what else transformers calls `mistral`."""

    model_type = "mistral"
    sizes_read = {**Llama.sizes_read, "sliding_window": "positions"}
    sizes_optional = Llama.sizes_optional | {"sliding_window"}


FAMILY = Mistral
