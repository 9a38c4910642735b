"""How much memory a batch may take: a budget in bytes, halved when the device runs out of memory all the same.

Covers the budget's words (`--memory 8GB`) and its default. How many rows or facts of a computation fit is asked here by
those who cut batches: tracing/sweep.py, editing.
"""

import re
from collections.abc import Callable

import torch

from artifact.errors import SettingError
from artifact.lm.decoder import Decoder


class Memory:
    """How many bytes a sweep may take; halved, and said so, when the device runs out of memory all the same."""

    def __init__(self, limit: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.limit = limit
        self._say = say

    def halve(self) -> None:
        self.limit //= 2
        self._say(f"out of memory: going on with batches for {self.limit / 1e9:.2f} GB")

    def rows(self, decoder: Decoder, left: int, tokens: int) -> int:
        """Rows of `tokens` tokens with `left` stored ones that fit, at least one."""
        return max(1, self.limit // 2 // _row_bytes(decoder, left, tokens))

    def gradient_row_bytes(self, decoder: Decoder, layers: int, left: int, tokens: int) -> int:
        """Bytes of a row of `tokens` tokens with `left` stored ones whose gradient is taken through `layers` layers.

        A layer keeps norms, queries, keys, values, the MLP's inside twice, and the keys it attends to.
        """
        entries = layers * ((12 + 2 * 4) * tokens + 4 * (left + tokens)) * decoder.width
        logits = 4 * tokens * decoder.embedding_VD.shape[0]
        return (entries + logits) * decoder.embedding_VD.element_size()

    def points(self, decoder: Decoder, left: int) -> int:
        """Points of an integrated gradient that fit, at least one: rows of one token with `left` stored ones, one more
        at every layer, whose activations are all kept for the way back.
        """
        rows = decoder.layers * (decoder.layers + 1) // 2
        return max(1, self.limit // 2 // (rows * _row_bytes(decoder, left, tokens=1)))

    def facts(self, decoder: Decoder, tokens: int, samples: int) -> int:
        """Facts of one length whose corrupted runs may be kept together, at least one."""
        entries = 6 * decoder.layers * tokens * decoder.width  # states, keys, values, outputs
        kept = entries * decoder.embedding_VD.element_size()
        return max(1, self.limit // 2 // ((samples + 1) * kept))


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 8GB, 500MB or 1.5 GB; SettingError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])I?B?\s*", text.upper())
    if not found or float(found[1]) <= 0:
        raise SettingError(f"memory {text!r} is no size; give one such as 8GB or 500MB")
    return int(float(found[1]) * 1000 ** (1 + "KMGT".index(found[2])))


def default_memory(device: torch.device, reserved: int = 0) -> int:
    """Bytes a sweep may take unless told: 60% of what is free on a GPU, 2 GB of a computer's own memory.

    `reserved` is what will be put on the device for the whole run and is not there yet, such as factors of moments.
    """
    if device.type == "cuda":
        return int(0.6 * max(0, torch.cuda.mem_get_info(device)[0] - reserved))
    return 2_000_000_000


def _row_bytes(decoder: Decoder, left: int, tokens: int) -> int:
    """Bytes one row needs at the widest point of a block: states, queries, keys and values, the MLP's inside."""
    mlp = 4 * decoder.width
    entries = tokens * (8 * decoder.width + 2 * mlp) + (left + tokens) * 4 * decoder.width
    return entries * decoder.embedding_VD.element_size()
