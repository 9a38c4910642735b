"""Where an edit goes: which module's output projection it changes, and the key of which token it takes.

Covers the words and what they stand for; no torch, so that hyperparameters and help can name them. ROME's and MEMIT's
published site is the MLP at the subject's last token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Module = Literal["mlp", "attn"]
MODULES: tuple[Module, ...] = get_args(Module)
PRINTED_MODULE: Mapping[Module, str] = {"mlp": "MLP", "attn": "attention"}
FactToken = Literal["subject_last", "relation_last", "last"]
FACT_TOKENS: tuple[FactToken, ...] = get_args(FactToken)
TOKEN_WORDS: Mapping[FactToken, str] = {
    "subject_last": "the subject's last token",
    "relation_last": "the relation's last token",
    "last": "the prompt's last token",
}


@dataclass(frozen=True)
class Projection:
    """A module's output projection: its `part` of the block (Family.name) and the decoder's site of its input."""

    part: str
    key: Literal["key", "mixed"]


PROJECTIONS: Mapping[Module, Projection] = {
    "mlp": Projection("mlp_down", "key"),
    "attn": Projection("attn_out", "mixed"),
}


@dataclass(frozen=True)
class Place:
    """Where an edit is asked for, by the hyperparameters' values; None leaves one as it is."""

    site: Module | None = None
    token: FactToken | None = None
    layer: int | None = None

    def changes(self) -> dict[str, Any]:
        """The hyperparameters that it sets, by name."""
        layers = None if self.layer is None else (self.layer,)
        named = {"site": self.site, "fact_token": self.token, "layers": layers}
        return {name: value for name, value in named.items() if value is not None}


def after_words(module: Module, parallel: bool) -> str:
    """What else of its own block reads a change at the module."""
    if module == "mlp":
        return "nothing in its own block reads the MLP's output"
    return f"the MLP of its own block {'does not read' if parallel else 'reads'} the attention's output"
