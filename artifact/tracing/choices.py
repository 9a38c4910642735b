"""The choices of a trace that reasonable experimenters make differently, and all their combinations. No torch.

Covers the words of every choice, and the grid of the multiverse: corruption, relation span, window and direction. The
metrics are read off each trace.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from artifact.facts.fact import Perspective
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TraceKind

Corruption = Literal["noise", "replace", "mean"]
"""Noise on the embeddings, the tokens of another prompt (symmetric token replacement), or a mean embedding."""
RelationSpan = Literal["all", "after", "template"]
NoSpan = Literal[""]
"""The entity's perspective has none."""
RELATION_SPANS: tuple[RelationSpan, ...] = get_args(RelationSpan)
Direction = Literal["restore", "corrupt"]
"""A clean value put into the corrupted run, or a corrupted one into the clean run."""
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
Metric = Literal["p", "logp", "ld"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""The answer's probability, its logarithm, and the answer's logit minus the foil's, in the order of arrays."""
CORRUPTED: Mapping[str, tuple[Corruption, float]] = {
    "noise, 1 sigma": ("noise", 1.0),
    "noise, 3 sigma": ("noise", 3.0),
    "noise, 5 sigma": ("noise", 5.0),
    "replacement": ("replace", 3.0),
    "mean": ("mean", 3.0),
}
"""Corruptions of the grid by name, with the noise's standard deviations where there is noise."""
WINDOWS = (1, 3, 5, 10)
"""Layers of a model of 48; other models take their share."""
OWN = {"corruption": "noise, 3 sigma", "span": "all", "direction": "restore", "metric": "p"}
"""The paper's own choices, beside its window."""


@dataclass(frozen=True)
class Choice:
    """One way to trace. `span` is empty for the entity's perspective; `window`, in the model's layers, is 0 for a kind
    without one.
    """

    kind: str
    corruption: str
    span: RelationSpan | NoSpan
    window: int
    direction: Direction

    @property
    def key(self) -> str:
        """Its name in records."""
        return "|".join((self.kind, self.corruption, self.span, str(self.window), self.direction))


def windows_of(layers: int, own: int) -> list[int]:
    """The different windows on a model of so many layers, the paper's `own` among them."""
    return sorted({own, *(scaled_window(layers, window) for window in WINDOWS)})


def choices(kind: TraceKind, perspective: Perspective, layers: int, own: int) -> Iterator[Choice]:
    """Every way to make one kind of trace on a model of so many layers; `own` is the paper's window."""
    spans: tuple[RelationSpan | NoSpan, ...] = RELATION_SPANS if perspective == "relation" else ("",)
    windows = windows_of(layers, own) if kind.windowed else [0]
    for corruption, direction, span, window in product(CORRUPTED, DIRECTIONS, spans, windows):
        yield Choice(kind.name, corruption, span, window, direction)
