"""Find a model by name or folder, fetch it where needed, and load it into the decoder.

Covers names (world, gpt2, gpt2-xl, gpt-j, smollm2), folders in transformers' layout, downloads at pinned revisions, and
the hash of the weights. transformers gives configuration, tokenizer and weights; the forward pass is decoder.py's, the
choice of the device device.py's. It does not train (world.py does).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from artifact.errors import ModelError
from artifact.io import reason
from artifact.lm.decoder import Decoder
from artifact.lm.device import choose_device
from artifact.lm.gpt2 import GPT2
from artifact.lm.gptj import GPTJ
from artifact.lm.llama import Llama
from artifact.lm.smollm2 import SMOLLM2, converted
from artifact.lm.tokens import Tokens
from artifact.sources.catalogue import HUB_MODELS, WORLD
from artifact.sources.fetch import fetch


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model: decoder, tokens, and what a record must say about where it came from."""

    name: str
    revision: str
    decoder: Decoder
    tokens: Tokens

    def weights_hash(self) -> str:
        """sha256 over every weight's name and bytes, in name order: equal before and after any experiment."""
        digest = hashlib.sha256()
        for name in sorted(self.decoder.weights):
            tensor = self.decoder.weights[name].detach().cpu().contiguous()
            digest.update(name.encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def weights_sha256(self) -> str:
        """`weights_hash` as it was when first asked for: what files that are made from this model carry."""
        return self.weights_hash()


def load(name: str, device: str | None = None, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model called `name` (world, gpt2, gpt2-xl, gpt-j, smollm2) or the folder of a transformers model.

    `device` is cpu, cuda or cuda:N; without it device.py chooses. Raises ModelError for an unknown name, a folder that
    is no model, and a family or configuration that the decoder does not know.
    """
    device = device or choose_device()[0]
    if name == "world":
        return load_folder(WORLD, name="world", device=device, dtype=dtype)
    if name in HUB_MODELS:
        model = HUB_MODELS[name]
        return load_folder(fetch(model), name=name, revision=model.revision, device=device, dtype=dtype)
    if name == SMOLLM2:
        folder, revision = converted()
        return load_folder(folder, name=name, revision=revision, device=device, dtype=dtype)
    if not Path(name).is_dir():
        known = ", ".join(["world", *HUB_MODELS, SMOLLM2])
        raise ModelError(f"model {name!r} is neither a known name ({known}) nor a folder; name one of these")
    return load_folder(Path(name), device=device, dtype=dtype)


def load_folder(
    folder: Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """A model from a folder in transformers' layout. Without `revision`, the hash of its weight file stands for it."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json, so it is no transformers model; name a folder that is one")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        _family(config)  # refuse an unknown family before reading gigabytes
        module = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for a damaged folder
        raise ModelError(
            f"{folder}: cannot be loaded as a transformers model ({reason(error, 200)}); fetch it again"
        ) from None
    decoder = from_module(module, device)
    return LanguageModel(
        name=name or str(folder),
        revision=revision or f"sha256:{_file_hash(folder)}",
        decoder=decoder,
        tokens=Tokens(tokenizer, decoder.positions, config.bos_token_id if config.model_type == "llama" else None),
    )


def from_module(module: Any, device: str = "cpu") -> Decoder:
    """The decoder over the weights of a transformers module of a known family (shares its tensors where it can)."""
    config = module.config
    family = _family(config)
    weights = {key: value.detach().to(device) for key, value in module.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return Decoder(
        family,
        weights,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        epsilon=config.rms_norm_eps if family.rms_norm else config.layer_norm_epsilon,
        positions=config.max_position_embeddings,
    )


def _family(config: Any) -> GPT2 | GPTJ | Llama:
    if getattr(config, "quantization_config", None):
        raise ModelError("quantised weights are not supported; give the model in float32, float16 or bfloat16")
    family: GPT2 | GPTJ | Llama
    if config.model_type == "gpt2":
        family = GPT2()
    elif config.model_type == "gptj":
        if not config.rotary_dim:
            raise ModelError("gptj without rotary_dim is not supported; expected a number, as in GPT-J 6B's 64")
        family = GPTJ(config.rotary_dim)
    elif config.model_type == "llama":
        family = Llama.of(config)
    else:
        raise ModelError(f"model family {config.model_type!r} is not supported; expected gpt2, gptj or llama")
    for key, value in family.required.items():
        found = getattr(config, key, value)
        if found != value:
            raise ModelError(f"configuration {key} = {found!r} is not supported; expected {value!r}")
    return family


def _file_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
