"""Where each model is fetched from: repository, pinned revision, the files needed, and known hashes.

Covers the models of the paper, GPT-2 small for the smoke run, and the embedded world. It does not fetch: lm/load.py
does, with huggingface_hub. The embedded world is no evidence for or against the paper: its editing site is installed
by training.
"""

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
WORLD = DATA / "world"
"""Folder of the embedded world: model, tokenizer, facts."""
WORLD_MEND = DATA / "mend-world.safetensors"
"""MEND's network trained for the world: `kloc mend-train --model world --half`."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub at a pinned revision. `files` is all that is downloaded, `weights` the big one.

    `size` is the bytes of `weights`, `sha256` its hash where the source gives one.
    """

    name: str
    repo: str
    revision: str
    weights: str
    size: int
    licence: str
    sha256: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The weights in one format, the configuration and the tokenizer; repositories hold many duplicates beside."""
        return (
            self.weights,
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
            "special_tokens_map.json",
            "added_tokens.json",
        )


HUB_MODELS = {
    model.name: model
    for model in (
        HubModel(
            "gpt2",
            "openai-community/gpt2",
            "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            "model.safetensors",
            548_105_171,
            "MIT",
        ),
        HubModel(
            "gpt2-xl",
            "openai-community/gpt2-xl",
            "15ea56dee5df4983c59b2538573817e1667135e2",
            "model.safetensors",
            6_431_829_964,
            "MIT",
            "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
        ),
        HubModel(
            "gpt-j",
            "EleutherAI/gpt-j-6b",
            "47e169305d2e8376be1d31e765533382721b2cc1",
            "pytorch_model.bin",
            24_200_000_000,
            "Apache-2.0",
        ),
    )
}
