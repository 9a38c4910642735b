"""A tiny transformers module of every model family, and attention that is blocked in it from outside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from artifact.lm.families import FAMILIES

_SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.5,
}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24}
"""Of families that have these sizes at all."""
_OWN: dict[str, dict[str, Any]] = {"gptj": {"rotary_dim": 4}}


def tiny_module(name: str, seed: int = 0) -> Any:
    """A module of that family with random weights, in evaluation mode; attention is computed step by step (eager)."""
    grouped = {} if name.startswith("gpt") else _GROUPED
    config = AutoConfig.for_model(name, **_SIZES, **grouped, **_OWN.get(name, {}))
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@contextmanager
def block_attention(module: Any, pairs: Sequence[tuple[int, int]], layers: Sequence[int]) -> Iterator[None]:
    """Within the block, these (reading, read) pairs get the lowest score that there is in these layers."""

    def mask(_: Any, args: Any, named: dict[str, Any]) -> Any:
        hidden_BTD = named["hidden_states"] if "hidden_states" in named else args[0]
        tokens = hidden_BTD.shape[1]
        open_TT = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        for reading, read in pairs:
            open_TT[reading, read] = False
        lowest = torch.finfo(hidden_BTD.dtype).min
        return args, named | {"attention_mask": torch.zeros(tokens, tokens).masked_fill(~open_TT, lowest)[None, None]}

    blocks = module.get_submodule(FAMILIES[module.config.model_type].blocks)
    parts = [_attention(blocks[layer]) for layer in layers]
    handles = [part.register_forward_pre_hook(mask, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attention(block: Any) -> Any:
    (name,) = {"attn", "self_attn", "attention"} & {name for name, _ in block.named_children()}
    return block.get_submodule(name)
