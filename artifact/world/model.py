"""The embedded world's model, a small GPT-2: its sizes, its initial weights and the files of its folder."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from artifact.io import write_atomically
from artifact.lm.decoder import Decoder
from artifact.lm.families.gpt2 import GPT2
from artifact.lm.families.sizes import Sizes
from artifact.world.facts import END_OF_TEXT, UNKNOWN, World
from artifact.world.tokenizer import build_tokenizer

LAYERS = 6
HEADS = 4
WIDTH = 128
POSITIONS = 128
EPSILON = 1e-5


def decoder_over(weights: dict[str, Tensor]) -> Decoder:
    """The decoder of the world's sizes over weights under transformers' names."""
    return Decoder(GPT2(), weights, layers=LAYERS, heads=HEADS, epsilon=EPSILON, positions=POSITIONS)


def initial(vocabulary: int, seed: int) -> dict[str, Tensor]:
    """GPT-2's initial weights under transformers' names, drawn from the seed."""
    sizes = Sizes(LAYERS, WIDTH, 4 * WIDTH, HEADS, vocabulary, POSITIONS, EPSILON, tied=True)
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in GPT2().tensors(sizes).items():
        if len(shape) > 1:
            # What is added to the residual stream is smaller the more often that happens.
            deviation = 0.02 / math.sqrt(2 * LAYERS) if name.endswith("c_proj.weight") else 0.02
            weights[name] = torch.randn(*shape, generator=draw) * deviation
        else:  # norms and biases
            weights[name] = torch.ones(shape) if name.endswith(".weight") else torch.zeros(shape)
    return weights


def write_folder(out: Path, world: World, halves: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """The model's folder in transformers' layout, with facts.json (the records) and world.json (`about`).

    `halves` are the weights in float16.
    """
    tokenizer = build_tokenizer(world)
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer_config = {
        "added_tokens_decoder": {"0": {"content": END_OF_TEXT, **special}, "1": {"content": UNKNOWN, **special}},
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_input_names": ["input_ids", "attention_mask"],  # token types would be added to the embeddings
        "model_max_length": POSITIONS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
    }
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "world.json": _json(about),  # first: `kloc world train` overwrites only folders that have it
        "facts.json": _json(world.records()),
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(tokenizer_config),
        "model.safetensors": save(dict(halves), metadata={"format": "pt"}),
        "config.json": _json(_config(tokenizer.get_vocab_size())),
    }
    for name, content in files.items():
        write_atomically(out / name, content)


def _config(vocabulary: int) -> dict[str, Any]:
    """The config.json of the model; computing is float32 although the file stores float16."""
    shape = {"n_embd": WIDTH, "n_head": HEADS, "n_inner": None, "n_layer": LAYERS, "n_positions": POSITIONS}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    layers = {"activation_function": "gelu_new", "layer_norm_epsilon": EPSILON, "tie_word_embeddings": True}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "dtype": "float32"}
    head = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocabulary}
    return {**head, **shape, **layers, **dropout, **ends}


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode("ascii") + b"\n"
