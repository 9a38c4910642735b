"""The choices of a trace that reasonable experimenters make differently, and all their combinations. No torch.

Covers the grid of the multiverse: corruption, relation span, window, direction; the metrics are read off each trace.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from artifact.facts.fact import Perspective
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TRACE_KINDS

Corruption = Literal["noise", "replace", "mean"]
RelationSpan = Literal["all", "after", "template"]
Direction = Literal["restore", "corrupt"]
CORRUPTIONS: Mapping[str, tuple[Corruption, float]] = {
    "noise, 1 sigma": ("noise", 1.0),
    "noise, 3 sigma": ("noise", 3.0),
    "noise, 5 sigma": ("noise", 5.0),
    "replacement": ("replace", 1.0),
    "mean": ("mean", 1.0),
}
"""Corruptions by name, with the level of noise in standard deviations."""
SPANS: tuple[RelationSpan, ...] = ("all", "after", "template")
WINDOWS = (1, 3, 5, 10)
"""Layers of a model of 48; other models take their share."""
DIRECTIONS: tuple[Direction, ...] = ("restore", "corrupt")
OWN = {"corruption": "noise, 3 sigma", "span": "all", "window": "10", "direction": "restore"}
"""The paper's own choices; of windows, the published number of 48 layers."""


@dataclass(frozen=True)
class Choice:
    """One way to trace: names of its choices, as in run records. `span` is empty for the entity's perspective, `window`
    (in layers of the model) 0 where a kind has none.
    """

    kind: str
    corruption: str
    span: str
    window: int
    direction: Direction

    @property
    def key(self) -> str:
        """Its name in records."""
        return "|".join((self.kind, self.corruption, self.span, str(self.window), self.direction))


def windows_of(layers: int) -> list[int]:
    """The different windows on a model of so many layers."""
    return sorted({scaled_window(layers, window) for window in WINDOWS})


def choices(perspective: Perspective, layers: int) -> Iterator[Choice]:
    """Every way to trace from a perspective on a model of so many layers."""
    spans = SPANS if perspective == "relation" else ("",)
    for kind, corruption, span, direction in product(TRACE_KINDS.values(), CORRUPTIONS, spans, DIRECTIONS):
        if kind.figures:
            for window in windows_of(layers) if kind.windowed else [0]:
                yield Choice(kind.name, corruption, span, window, direction)
