"""Find a model by name or folder, fetch it where needed, and load it into the decoder.

Covers names (world, gpt2, gpt2-xl, gpt-j), folders in transformers' layout, downloads at pinned revisions, devices and
the hash of the weights. transformers gives configuration, tokenizer and weights; the forward pass is decoder.py's. It
does not train (world.py does).
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifact.errors import ModelError
from artifact.facts.sources import HUB_MODELS, WORLD, HubModel
from artifact.lm.decoder import Decoder
from artifact.lm.gpt2 import GPT2
from artifact.lm.gptj import GPTJ
from artifact.lm.tokens import Tokens


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


def auto_device() -> tuple[str, str]:
    """The device to use and why, in words."""
    if torch.cuda.is_available():
        return "cuda", f"a GPU is there ({torch.cuda.get_device_name()})"
    return "cpu", "no CUDA device is there"


def load(name: str, device: str | None = None, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model called `name` (world, gpt2, gpt2-xl, gpt-j) or the folder of a transformers model.

    Raises ModelError for an unknown name, a folder that is no model, and a family or configuration the decoder lacks.
    """
    device = device or auto_device()[0]
    if name == "world":
        return load_folder(WORLD, name="world", device=device, dtype=dtype)
    if name in HUB_MODELS:
        model = HUB_MODELS[name]
        return load_folder(fetch(model), name=name, revision=model.revision, device=device, dtype=dtype)
    if not Path(name).is_dir():
        known = ", ".join(["world", *HUB_MODELS])
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
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: cannot be loaded as a transformers model ({reason}); fetch it again") from None
    decoder = from_module(module, device)
    return LanguageModel(
        name=name or str(folder),
        revision=revision or f"sha256:{_file_hash(folder)}",
        decoder=decoder,
        tokens=Tokens(tokenizer, decoder.positions),
    )


def from_module(module: Any, device: str = "cpu") -> Decoder:
    """The decoder over the weights of a transformers module of a known family (shares its tensors where it can)."""
    config = module.config
    weights = {key: value.detach().to(device) for key, value in module.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return Decoder(
        _family(config),
        weights,
        layers=config.n_layer,
        heads=config.n_head,
        epsilon=config.layer_norm_epsilon,
        positions=config.n_positions,
    )


def _family(config: Any) -> GPT2 | GPTJ:
    family: GPT2 | GPTJ
    if config.model_type == "gpt2":
        family = GPT2()
    elif config.model_type == "gptj":
        if not config.rotary_dim:
            raise ModelError("gptj without rotary_dim is not supported; expected a number, as in GPT-J 6B's 64")
        family = GPTJ(config.rotary_dim)
    else:
        raise ModelError(f"model family {config.model_type!r} is not supported; expected gpt2 or gptj")
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


def cached(model: HubModel) -> bool:
    """Whether all that loading needs is in the hub cache already, at the pinned revision."""
    from huggingface_hub import try_to_load_from_cache

    needed = (model.weights, "config.json", "tokenizer.json")
    return all(isinstance(try_to_load_from_cache(model.repo, f, revision=model.revision), str) for f in needed)


def hub_answers(model: HubModel, seconds: float = 10.0) -> tuple[bool, str]:
    """Whether the hub says within `seconds` that it has the weights, and what it said, in words.

    Asked in a thread of its own, since neither name resolution nor a slow proxy keeps a client's time-outs.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return False, "HF_HUB_OFFLINE is set"
    answer: list[tuple[bool, str]] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(model.repo, model.weights, revision=model.revision), timeout=seconds)
            answer.append((True, "the hub answers"))
        except Exception as error:  # any failure means the same here: no answer that helps
            answer.append((False, f"the hub does not answer ({type(error).__name__})"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else (False, f"the hub did not answer within {seconds:g} s")


def fetch(model: HubModel, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of `model` in the hub cache, downloaded at its pinned revision if it is not there yet.

    huggingface_hub resumes, verifies and honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and proxies.
    """
    from huggingface_hub import snapshot_download

    here = cached(model)
    if not here:
        say(f"fetching {model.repo}@{model.revision[:8]}: {model.size / 1e9:.2f} GB")
    try:
        return Path(
            snapshot_download(
                model.repo, revision=model.revision, allow_patterns=list(model.files), local_files_only=here
            )
        )
    except Exception as error:  # hub, network and disk errors share no base class
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{model.name}: {model.repo}@{model.revision[:8]} cannot be fetched ({reason}); connect to the hub, set "
            "HF_ENDPOINT to a mirror, or name a folder that holds the model"
        ) from None
