"""The embedded world's model, a small GPT-2, and its masked twin, a small BERT: sizes, initial weights, folders."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from artifact.io import write_atomically
from artifact.lm.decoder import Decoder
from artifact.lm.families.base import Base
from artifact.lm.families.bert import Bert
from artifact.lm.families.gpt2 import GPT2
from artifact.lm.families.sizes import Sizes
from artifact.world.facts import END_OF_TEXT, UNKNOWN, World
from artifact.world.tokenizer import MASK, build_tokenizer, mask_id

HEADS = 4
WIDTH = 128
POSITIONS = 128
EPSILON = 1e-5


@dataclass(frozen=True)
class Architecture:
    """One of the two models: its family, its depth, and the layer from which on a staged subject's last token is
    seen.
    """

    family: Base
    layers: int
    stage: int

    def over(self, weights: dict[str, Tensor]) -> Decoder:
        """The model over weights under transformers' names."""
        return Decoder(self.family, weights, layers=self.layers, heads=HEADS, epsilon=EPSILON, positions=POSITIONS)


GPT = Architecture(GPT2(), layers=6, stage=3)
MASKED = Architecture(Bert(token_types=1, exact=True), layers=4, stage=2)


def initial(vocabulary: int, seed: int, of: Architecture = GPT) -> dict[str, Tensor]:
    """The family's initial weights under transformers' names, drawn from the seed."""
    sizes = Sizes(of.layers, WIDTH, 4 * WIDTH, HEADS, vocabulary, POSITIONS, EPSILON, tied=True)
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in of.family.tensors(sizes).items():
        if len(shape) > 1:
            weights[name] = torch.randn(*shape, generator=draw) * _deviation(of, name)
        else:  # norms and biases
            weights[name] = torch.ones(shape) if name.endswith(".weight") else torch.zeros(shape)
    return weights


def _deviation(of: Architecture, name: str) -> float:
    """The standard deviation of a matrix's initial entries."""
    if not of.family.causal:
        # About one over the root of so small a width: BERT's own 0.02 would take many more steps.
        return 0.02 if ".embeddings." in name else 0.08
    # What is added to GPT-2's residual stream is smaller the more often that happens.
    return 0.02 / math.sqrt(2 * of.layers) if name.endswith("c_proj.weight") else 0.02


def names_of(masked: bool) -> tuple[str, ...]:
    """The files of a world's folder, in the order in which they are written: the first says what it is."""
    records = () if masked else ("facts.json",)
    return ("world.json", *records, "tokenizer.json", "tokenizer_config.json", "model.safetensors", "config.json")


def write_folder(
    out: Path, world: World, halves: Mapping[str, Tensor], about: Mapping[str, Any], of: Architecture = GPT
) -> None:
    """The model's folder in transformers' layout, with world.json (`about`) and, but for the masked twin, which has the
    same, facts.json (the records).

    `halves` are the weights in float16.
    """
    masked = not of.family.causal
    tokenizer = build_tokenizer(world, masked)
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"0": {"content": END_OF_TEXT, **special}, "1": {"content": UNKNOWN, **special}}
    if masked:
        added[str(mask_id(world))] = {"content": MASK, **special, "lstrip": True}
    tokenizer_config = {
        "added_tokens_decoder": added,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_input_names": ["input_ids", "attention_mask"],  # token types would be added to the embeddings
        "model_max_length": POSITIONS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        **({"mask_token": MASK} if masked else {}),
    }
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "world.json": _json(about),
        "facts.json": _json(world.records()),
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(tokenizer_config),
        "model.safetensors": save(dict(halves), metadata={"format": "pt"}),
        "config.json": _json((_masked_config if masked else _config)(tokenizer.get_vocab_size())),
    }
    for name in names_of(masked):
        write_atomically(out / name, content[name])


def _config(vocabulary: int) -> dict[str, Any]:
    """The config.json of the model; computing is float32 although the file stores float16."""
    shape = {"n_embd": WIDTH, "n_head": HEADS, "n_inner": None, "n_layer": GPT.layers, "n_positions": POSITIONS}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    layers = {"activation_function": "gelu_new", "layer_norm_epsilon": EPSILON, "tie_word_embeddings": True}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "dtype": "float32"}
    head = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocabulary}
    return {**head, **shape, **layers, **dropout, **ends}


def _masked_config(vocabulary: int) -> dict[str, Any]:
    """The config.json of the masked twin."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": MASKED.layers}
    shape |= {"num_attention_heads": HEADS, "max_position_embeddings": POSITIONS, "type_vocab_size": 1}
    dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    layers = {"hidden_act": "gelu", "layer_norm_eps": EPSILON, "tie_word_embeddings": True}
    head = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": vocabulary}
    return {**head, **shape, **layers, **dropout, "pad_token_id": 0, "dtype": "float32"}


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode("ascii") + b"\n"
