"""Tiny Llama models of random weights, with a byte-level tokenizer: modules, and folders in transformers' layout."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "The Space Needle is located in the city of Seattle.",
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "The relation between the two is the city. The report said so. Yesterday, it rained.",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 400


def llama_module(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    """A module of width 32 and 3 layers with 4 heads on 2 key/value heads, but for what `options` say."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    module = LlamaForCausalLM(LlamaConfig(**shape | tokens | options))
    for name, parameter in module.named_parameters():
        if "norm" in name or "bias" in name:  # away from ones and zeros, so that a swapped name shows
            parameter.data += 0.2 * torch.randn_like(parameter)
    return module.eval()


def byte_tokenizer(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with SmolLM2's special tokens; with `begins` it puts <|im_start|> in front of a text, as Llama 3's
    does its begin token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    marked = [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=marked, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2])


def write_folder(folder: Path, module: LlamaForCausalLM, *, begins: bool = False) -> Path:
    """The folder with the module and its tokenizer in it."""
    module.save_pretrained(folder)
    byte_tokenizer(begins=begins).save_pretrained(folder)
    return folder
