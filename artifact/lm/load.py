"""Find a model by name or folder, fetch it where needed, and load it into the decoder.

Covers names (world, world-masked, gpt2, gpt2-xl, gpt-j, smollm2), folders in transformers' layout, downloads at pinned
revisions, and the hash of the weights. transformers gives configuration and tokenizer (folder.py); weights are read
from their files (weights.py) by what the family expects (families/). No transformers module is built.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from artifact.errors import ModelError
from artifact.io import sha256_of
from artifact.lm.cards import spread
from artifact.lm.decoder import Decoder
from artifact.lm.device import cards_for, check_fits, choose_device, free_memory
from artifact.lm.families import family_of
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import Sizes
from artifact.lm.family import Family
from artifact.lm.folder import CONFIG, read_config, read_tokens, tokenizer_hash
from artifact.lm.smollm2 import SMOLLM2, converted
from artifact.lm.tokens import Tokens
from artifact.lm.weights import Stored, entries, matched, placed, size_of, stored_tensors, untied
from artifact.sizes import dtype_word
from artifact.sources.any_hub import HubId, hub_id, resolved, small_files, whole
from artifact.sources.catalogue import HUB_MODELS, WORLDS
from artifact.sources.download import Say
from artifact.sources.fetch import cached, fetch


@dataclass(frozen=True)
class ModelKind:
    """What decides which experiments a model can do: its family and depth, and its name for what is said of it."""

    name: str
    family: Family | type[Base]
    layers: int

    def needs_decoder(self, what: str) -> None:
        """Raise ModelError, which names `what`, where the model is an encoder."""
        if not self.family.causal:
            raise ModelError(f"{what} needs a decoder, and {self.name} is an encoder; give a decoder, such as gpt2")


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model: decoder, tokens, and what a record must say about where it came from."""

    name: str
    revision: str
    decoder: Decoder
    tokens: Tokens
    tokenizer_sha256: str = ""
    """Over the tokenizer's files; empty for a tokenizer that was not read from files."""
    folder: Path | None = None
    """Where its files are; None for a model that was not read from files."""

    def weights_hash(self) -> str:
        """sha256 over every weight's name and bytes, in name order: equal before and after any experiment."""
        digest = hashlib.sha256()
        for name in sorted(self.decoder.weights):
            tensor = self.decoder.weights[name].detach().cpu().contiguous()
            digest.update(name.encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def kind(self) -> ModelKind:
        """What it is without its weights."""
        return ModelKind(self.name, self.decoder.family, self.decoder.layers)

    @cached_property
    def weights_sha256(self) -> str:
        """`weights_hash` as it was when first asked for: what files that are made from this model carry."""
        return self.weights_hash()


Beside = Callable[[Base, Sizes], int]
"""Of a family and its sizes, the bytes that will stand on the first card besides the weights."""


def _nothing(family: Base, sizes: Sizes) -> int:
    return 0


def load(
    name: str,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    say: Say = lambda line: None,
    beside: Beside = _nothing,
) -> LanguageModel:
    """The model called `name` (world, world-masked, gpt2, gpt2-xl, gpt-j, smollm2), of the hub (org/name,
    org/name@revision), or of a folder in transformers' layout.

    `device` is cpu, cuda or cuda:N; without it device.py chooses. A model that does not fit the device is not fetched.
    Over several cards, blocks leave room for what stands `beside` them on the first.
    Raises ModelError for that, an unknown name, a folder that is not a model, and a family or configuration that the
    decoder does not know.
    """
    device = device or choose_device()[0]
    if (here := folder_here(name)) is not None:
        return load_folder(
            here.folder,
            name=name,
            revision=here.revision,
            device=device,
            dtype=dtype,
            beside=beside,
            if_damaged=here.if_damaged,
        )
    if name in HUB_MODELS:
        model = HUB_MODELS[name]
        if not cached(model):
            check_fits(name, model.size * dtype.itemsize // 4, device, dtype)  # its files are float32
        folder, revision = fetch(model, say), model.revision
        return load_folder(folder, name=name, revision=revision, device=device, dtype=dtype, beside=beside)
    if (asked := hub_id(name)) is not None:
        return _load_hub(asked, device, dtype, say, beside)
    if not Path(name).is_dir():
        known = ", ".join([*WORLDS, *HUB_MODELS, SMOLLM2])
        raise ModelError(
            f"model {name!r} is neither a known name ({known}), a folder, nor a model of the hub (org/name, "
            "org/name@revision); name one of these"
        )
    return load_folder(Path(name), device=device, dtype=dtype, beside=beside)


@dataclass(frozen=True)
class Here:
    """A model that comes with a package: its folder and revision, and the remedy where no user has made the folder."""

    folder: Path
    revision: str | None = None
    """None for a world: the hash of its weights stands for it."""
    if_damaged: str | None = None


def folder_here(name: str) -> Here | None:
    """Where a named model is that comes with a package (world, world-masked, smollm2); None for others.

    Raises ModelError where the package is missing.
    """
    if name in WORLDS:
        return Here(WORLDS[name])
    if name != SMOLLM2:
        return None
    folder, revision = converted()
    return Here(folder, revision, f"remove {folder}, and the same command makes it again")


def _load_hub(asked: HubId, device: str, dtype: torch.dtype, say: Say, beside: Beside) -> LanguageModel:
    """A model of the hub; its configuration says whether it is known and fits before its weights are fetched."""
    model = resolved(asked, say)
    _, family, sizes = described(small_files(model))
    check_fits(model.repo, dtype.itemsize * entries(family, sizes), device, dtype)
    folder, revision = whole(model, say), model.revision
    return load_folder(folder, name=model.repo, revision=revision, device=device, dtype=dtype, beside=beside)


def described(folder: Path, if_damaged: str | None = None) -> tuple[Any, Base, Sizes]:
    """A folder's configuration, and the family and sizes that it says; ModelError for what the decoder does not know.

    The weights are not looked at, and need not be there. `if_damaged` is the remedy for a folder that no user has made.
    """
    with _remedy(if_damaged):
        config = read_config(folder)
        try:
            family = family_of(config)
            return config, family, family.sizes(config)
        except ModelError as error:
            raise ModelError(f"{folder / CONFIG}: {error}") from None


@contextmanager
def _remedy(remedy: str | None) -> Iterator[None]:
    """Errors of the model with this remedy, where there is one, in the place of their own."""
    try:
        yield
    except ModelError as error:
        raise (ModelError(f"{str(error).partition('; ')[0]}; {remedy}") if remedy else error) from None


def load_folder(
    folder: Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    beside: Beside = _nothing,
    if_damaged: str | None = None,
) -> LanguageModel:
    """A model from a folder in transformers' layout. Without `revision`, the hash of its weight file stands for it.

    Nothing of the folder is run. Blocks are spread over all cards where `device` is cuda and one card is too small.
    Raises ModelError, in one line, for a folder that is not a model of a known family, whole, with finite weights and a
    tokenizer. `if_damaged` is the remedy for a folder that no user has made.
    """
    where = str(folder)
    with _remedy(if_damaged):
        config, family, sizes = described(folder)
        tensors = matched(family, sizes, stored_tensors(folder), where)
        tokens = read_tokens(folder, config, sizes)
    check_fits(name or where, size_of(tensors.values(), dtype), device, dtype)
    with _remedy(if_damaged), ThreadPoolExecutor(1) as another:  # hashing takes as long as reading, and another core
        hashing = another.submit(lambda: revision or f"sha256:{sha256_of(*_weight_files(folder))}")
        weights = placed(tensors, family, _cards(family, sizes, device, dtype, beside(family, sizes)), dtype, where)
    decoder = _decoder(family, sizes, weights)
    return LanguageModel(name or where, hashing.result(), decoder, tokens, tokenizer_hash(folder), folder)


def from_module(module: Any, device: str = "cpu") -> Decoder:
    """The decoder over the weights of a transformers module of a known family (shares its tensors where it can)."""
    family = family_of(module.config)
    sizes = family.sizes(module.config)
    state = module.state_dict()
    stored = {name: Stored(tuple(value.shape), dtype_word(value.dtype), value.detach) for name, value in state.items()}
    tensors = matched(family, sizes, stored, type(module).__name__)
    weights = {name: tensor.read().to(device) for name, tensor in tensors.items()}
    return _decoder(family, sizes, untied(weights, family))


def _decoder(family: Base, sizes: Sizes, weights: dict[str, torch.Tensor]) -> Decoder:
    return Decoder(
        family, weights, layers=sizes.layers, heads=sizes.heads, epsilon=sizes.epsilon, positions=sizes.positions
    )


def _cards(family: Base, sizes: Sizes, device: str, dtype: torch.dtype, beside: int) -> list[str]:
    """The device of embedding and head, with so many bytes `beside` them, then of each block: several where one is too
    small (device.cards_for).
    """
    each = sum(prod(shape) for name, shape in family.tensors(sizes).items() if name.startswith(f"{family.blocks}.0."))
    first = beside + dtype.itemsize * (entries(family, sizes) - sizes.layers * each)
    blocks = [dtype.itemsize * each] * sizes.layers
    cards = cards_for(device, first + sum(blocks))
    placed_at = spread(blocks, first, [free_memory(card) for card in cards]) if len(cards) > 1 else [0] * sizes.layers
    return [cards[0], *(cards[at] for at in placed_at)]


def _weight_files(folder: Path) -> list[Path]:
    """A folder's files of weights, in the order of their names."""
    for ending in (".safetensors", ".bin"):
        if files := [file for file in sorted(folder.iterdir()) if file.suffix == ending and file.is_file()]:
            return files
    return []
