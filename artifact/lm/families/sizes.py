"""How large a model is by its configuration, and the bounds within which a size makes sense."""

from dataclasses import dataclass, replace
from typing import Any

from artifact.errors import ModelError
from artifact.terminal import short

BOUNDS = {"layers": 10_000, "width": 1_000_000, "heads": 100_000, "vocabulary": 100_000_000, "positions": 1_000_000_000}
"""The largest value of each size. Far beyond any model: the tensors in the files must match anyway."""

ORIGINAL = "original_max_position_embeddings"
"""The context that rotary positions were trained for, from which their scaling is counted."""
USUAL = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "intermediate_size": "width",
    "max_position_embeddings": "positions",
    "vocab_size": "vocabulary",
}
"""The keys of most configurations, and which size each is."""


@dataclass(frozen=True)
class Sizes:
    """What every family has: `inner` is the MLP's width, `tied` whether the head may be the embedding itself;
    `limited_by`: the configuration's key that says how many positions a text may take, where it is another than theirs.
    """

    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    positions: int
    epsilon: float
    tied: bool
    limited_by: str = ""

    def up_to(self, most: int | None, key: str) -> "Sizes":
        """With no more positions than `most`, which the configuration's `key` says; None and 0 are no limit."""
        return replace(self, positions=most, limited_by=key) if most and most < self.positions else self

    @classmethod
    def of(cls, config: Any, inner: int | None, epsilon: float) -> "Sizes":
        """The sizes of a transformers configuration; ModelError for an epsilon that is not one."""
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
            raise ModelError(f"the configuration's epsilon of norms is {epsilon!r}; expected a number such as 1e-05")
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=4 * config.hidden_size if inner is None else inner,
            heads=config.num_attention_heads,
            vocabulary=config.vocab_size,
            positions=config.max_position_embeddings,
            epsilon=float(epsilon),
            tied=bool(config.tie_word_embeddings),
        )


def head_width(width: int, heads: int) -> int:
    """The width of a head; ModelError when the heads do not divide the model's width."""
    if width % heads:
        raise ModelError(f"the configuration's {heads} heads do not divide its width {width}; give a whole division")
    return width // heads


def check_size(key: str, value: object, kind: str, optional: bool) -> None:
    """Raise ModelError for a size that is not a whole number from 1 to its bound."""
    if value is None and optional:
        return
    most = BOUNDS[kind]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        given = short(repr(value), 40)
        raise ModelError(f"configuration {key} = {given} is not possible; expected a whole number from 1 to {most}")
