"""The shape of a model that an estimate is for: one of the paper's, or any model's from its configuration alone.

No weights are read or fetched; of a model of the hub its listing and its small files are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from artifact.bench.shapes import SHAPES
from artifact.errors import ModelError
from artifact.lm.cards import spread
from artifact.lm.dtype import BYTES, DtypeName
from artifact.lm.families import family_type
from artifact.lm.families.base import Base
from artifact.lm.families.sizes import Sizes
from artifact.lm.load import ModelKind, described, folder_here
from artifact.lm.smollm2 import SMOLLM2
from artifact.lm.work import Shape
from artifact.sizes import size_words
from artifact.sources.any_hub import hub_id, missing_bytes, resolved, small_files
from artifact.sources.catalogue import WORLDS


@dataclass(frozen=True)
class Planned:
    """A model to plan for: its name as methods know it, its shape and family, and the bytes still to be fetched."""

    name: str
    shape: Shape
    family: Base | type[Base]
    downloads: int = 0

    @property
    def kind(self) -> ModelKind:
        """What decides which units of a plan it can do."""
        return ModelKind(self.name, self.family, self.shape.layers)


def planned(model: str, dtype: DtypeName = "float32") -> Planned:
    """The model of that name: one of the known names, a model of the hub, or a folder, which may lack its weights.

    Raises ModelError for an unknown name, a family that is not known, and what the hub does not answer.
    """
    if model in SHAPES:
        return Planned(model, Shape.of(SHAPES[model], BYTES[dtype]), family_type(SHAPES[model]["model_type"]))
    if (asked := hub_id(model)) is not None:
        found = resolved(asked)
        _, family, sizes = described(small_files(found))
        return Planned(found.repo, shape_of(family, sizes, BYTES[dtype]), family, missing_bytes(found))
    here = folder_here(model)
    folder = Path(model) if here is None else here.folder
    if not folder.is_dir():
        known = ", ".join([*SHAPES, *WORLDS, SMOLLM2])
        raise ModelError(
            f"model {model!r} is neither a known name ({known}), a model of the hub (org/name), nor a folder; name one"
        )
    _, family, sizes = described(folder, here.if_damaged if here else None)
    return Planned(model, shape_of(family, sizes, BYTES[dtype]), family)


def shape_of(family: Base, sizes: Sizes, itemsize: int) -> Shape:
    """What the formulas of work read of a model."""
    # Parts may be one layer: each is counted once.
    shapes = family.linear(sizes)
    linear = {family.parts[part]: (part, prod(shape)) for part, shape in shapes.items() if len(shape) == 2}
    return Shape(
        layers=sizes.layers,
        width=sizes.width,
        vocabulary=sizes.vocabulary,
        tied=sizes.tied,
        inner=sizes.inner,
        linear=sum(entries for _, entries in linear.values()),
        attention_in=sum(
            entries for part, entries in linear.values() if part.startswith("attn") and part != "attn_out"
        ),
        itemsize=itemsize,
    )


@dataclass(frozen=True)
class Card:
    """What one of several cards holds: its blocks, and bytes in all."""

    blocks: range
    size: float


def cards_of(shape: Shape, beside: float, cards: int) -> tuple[Card, ...]:
    """The blocks that each of `cards` equal cards holds; the first also what is not a block, and `beside` bytes.

    Empty where there is one card.
    """
    if cards == 1:
        return ()
    first = shape.ends + beside
    placed = spread([shape.block] * shape.layers, round(first), [1] * cards)
    found = []
    for card in range(cards):
        held = [block for block, on in enumerate(placed) if on == card]
        blocks = range(held[0], held[-1] + 1) if held else range(0)
        found.append(Card(blocks, len(blocks) * shape.block + (first if card == 0 else 0)))
    return tuple(found)


def card_lines(cards: Sequence[Card]) -> Iterator[str]:
    """What each card holds, in words."""
    for number, card in enumerate(cards):
        held = f"layers {card.blocks.start} to {card.blocks.stop - 1}" if card.blocks else "no layer"
        more = ", embedding, output layer, and all that is not weights" if number == 0 else ""
        yield f"card {number}: {held}{more}: {size_words(card.size)}"
    if cards:
        yield "cards take turns: the hidden state goes from one to the next, so that they hold more and are no faster"
