"""Tiny random models of every family: configurations of chosen settings, modules, and folders with a tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from masked_tokenizers import MASKED
from tiny_llama import byte_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils import logging

from artifact.lm.families import FAMILIES
from artifact.lm.load import LanguageModel, from_module
from artifact.lm.tokens import Tokens

Choose = Callable[[Sequence[Any]], Any]
DECODERS = [name for name, family in FAMILIES.items() if family.causal]
ENCODERS = [name for name, family in FAMILIES.items() if not family.causal]
BOTH = (False, True)
SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")
VOCABULARY = 400
"""Of `byte_tokenizer`."""
FEATURES = ("logits", "any layer", "changed weight", "trace", "knockout", "ROME", "MEMIT", "FT", "KN", "MEND")
"""What docs/models.md says of every family."""


def rotations(choose: Choose, width: int, kinds: Sequence[str] = SCALINGS) -> dict[str, Any]:
    """Rotary settings for `width` turned entries."""
    kind = choose([one for one in kinds if one != "dynamic" or width > 2])  # transformers divides by width - 2 there
    given: dict[str, Any] = {"rope_type": kind, "rope_theta": choose([500.0, 1e4, 1e6])}
    if kind not in ("default", "longrope"):
        given["factor"] = choose([2.0, 8.0])
    if kind in ("llama3", "yarn"):
        given["original_max_position_embeddings"] = choose([16, 24])
    if kind == "llama3":
        given |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn":
        given |= {"attention_factor": choose([None, 1.25]), "truncate": choose(BOTH)}
    if kind == "longrope":
        given |= {"short_factor": [1.0 + 0.1 * pair for pair in range(width // 2)], "long_factor": [4.0] * (width // 2)}
    return given


def configuration(
    family: str, choose: Choose, *, vocabulary: int = 40, layers: int | None = None, positions: int = 32
) -> Any:
    """A transformers configuration of a family, each setting one of those that `choose` is given."""
    groups, each, wide = choose([1, 2]), choose([1, 3]), 2 * choose([2, 4])
    heads, layers, inner = groups * each, layers or choose([1, 2, 3]), choose([7, 24])
    given = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    given |= {"initializer_range": 0.3, "tie_word_embeddings": choose(BOTH)}
    if family in ("gpt2", "gptj"):
        shape = {"n_embd": heads * wide, "n_head": heads, "n_layer": layers, "n_positions": positions, "n_inner": inner}
        return CONFIG_MAPPING[family](**given, **shape, **({"rotary_dim": wide} if family == "gptj" else {}))
    given |= {"hidden_size": heads * wide, "num_hidden_layers": layers, "num_attention_heads": heads}
    given |= {"intermediate_size": inner, "max_position_embeddings": positions}
    if family in ENCODERS:
        pad = choose([1, 3])
        own = {"hidden_act": choose(["gelu", "gelu_new"]), "type_vocab_size": choose([1, 2]), "pad_token_id": pad}
        own["tie_word_embeddings"] = True
        return CONFIG_MAPPING[family](**given | own)
    if family != "gpt_neox":
        given["num_key_value_heads"] = groups
    if family in ("llama", "mistral", "qwen2", "qwen3") or family.startswith("gemma"):
        wide = given["head_dim"] = choose([wide, wide + 2])
    return CONFIG_MAPPING[family](**given, **_own(family, choose, wide, layers, positions))


def _own(family: str, choose: Choose, wide: int, layers: int, positions: int) -> dict[str, Any]:
    """The settings that a family has for itself, with heads of `wide` entries."""
    if family in ("gpt_neox", "phi3"):
        share = choose([0.5, 1.0])
        kinds = SCALINGS if family == "gpt_neox" else ("default", "longrope")
        rope = rotations(choose, int(wide * share), kinds) | {"partial_rotary_factor": share}
        if family == "phi3":
            return {"rope_parameters": rope, "original_max_position_embeddings": 3 * positions // 4}
        own = {"rope_parameters": rope, "hidden_act": choose(["gelu", "gelu_new", "gelu_fast"])}
        return own | {"use_parallel_residual": choose(BOTH), "attention_bias": choose(BOTH)}
    own = {"rope_parameters": rotations(choose, wide)}
    if family in ("llama", "qwen3", "olmo2", "gemma2", "gemma3_text"):
        own["attention_bias"] = choose(BOTH)
    if family == "llama":
        own["mlp_bias"] = choose(BOTH)
    if family == "mistral":
        own["sliding_window"] = choose([None, 3 * positions // 4])
    if family in ("qwen2", "qwen3"):
        own |= {"use_sliding_window": choose(BOTH), "sliding_window": 3 * positions // 4, "max_window_layers": 1}
    if family.startswith("gemma"):
        own |= {"query_pre_attn_scalar": choose([4, 16]), "sliding_window": 3 * positions // 4}
        own |= {"final_logit_softcapping": choose([None, 3.0])}
    if family == "gemma2":
        own["attn_logit_softcapping"] = choose([None, 3.0])
    if family == "gemma3_text":
        near, far = rotations(choose, wide, ["default"]), rotations(choose, wide, ["default", "linear"])
        own["rope_parameters"] = {"sliding_attention": near, "full_attention": far}
        own["layer_types"] = [choose(["sliding_attention", "full_attention"]) for _ in range(layers)]
    return own


def auto_model(family: str) -> Any:
    """transformers' class that makes and reads modules of a family."""
    return AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM


def module_of(config: Any, seed: int = 0) -> Any:
    """A module of random weights, norms and biases away from ones and zeros, so that a swapped name shows."""
    logging.set_verbosity_error()  # it warns of scalings that no published model has
    torch.manual_seed(seed)
    module = auto_model(config.model_type).from_config(config, attn_implementation="eager")  # it caps products
    for name, parameter in module.named_parameters():
        if "norm" in name.lower() or "ln_" in name or "bias" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return module.eval()


def check_table(passed: Mapping[tuple[str, str], str]) -> None:
    """Assert that the table of docs/models.md says what was found, by family and feature."""
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    (at,) = [number for number, row in enumerate(rows) if row[1:] == list(FEATURES)]
    table = {row[0]: row[1:] for row in rows[at + 2 : at + 2 + len(FAMILIES)]}
    assert list(table) == list(FAMILIES)
    for (family, feature), word in passed.items():
        assert table[family][FEATURES.index(feature)] == word, f"docs/models.md: {family}, {feature} is {word}"


def write_model(folder: Path, module: Any, *, begins: bool = False, **more: Any) -> Path:
    """The folder with a module and a tokenizer in it: the byte-level one, or an encoder's."""
    module.save_pretrained(folder, **more)
    family = module.config.model_type
    (byte_tokenizer(begins=begins) if family in DECODERS else MASKED[family]()).save_pretrained(folder)
    return folder


__all__ = [
    "DECODERS",
    "ENCODERS",
    "FAMILIES",
    "MASKED",
    "VOCABULARY",
    "auto_model",
    "configuration",
    "module_of",
    "write_model",
]


def masked_model(family: str, layers: int) -> tuple[LanguageModel, Any]:
    """A tiny encoder of a family with a tokenizer of words, and transformers' module of it."""
    module = module_of(configuration(family, Random(3).choice, vocabulary=VOCABULARY, layers=layers, positions=64))
    tokens = Tokens(MASKED[family](), 62, VOCABULARY, masked=True)
    return LanguageModel(family, "r", from_module(module), tokens), module
