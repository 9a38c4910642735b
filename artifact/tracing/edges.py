"""Edges of attention that a knockout removes: from the tokens that read, to the tokens that they read. No torch.

Covers the roles at both ends, the five edges that BEYOND's question about the mechanism needs, and their words. A new
edge is one more entry of EDGES.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

Role = Literal["last", "relation", "subject"]
ROLES: tuple[Role, ...] = get_args(Role)
_WORDS: Mapping[Role, str] = {"last": "last token", "relation": "relation", "subject": "subject"}
# Okabe and Ito's colours, told apart by colour-blind readers; the line styles differ too.
_LOOKS: Mapping[tuple[Role, Role], tuple[str, Any]] = {
    ("last", "subject"): ("#0072B2", "-"),
    ("last", "relation"): ("#D55E00", "--"),
    ("last", "last"): ("#000000", ":"),
    ("relation", "subject"): ("#009E73", "-."),
    ("subject", "relation"): ("#CC79A7", (0, (5, 1))),
}
WINDOW = 9
"""Layers of a window on a model of 48 (Geva et al. 2023, arXiv 2304.14767); other models take their share."""
_DEPTH = 48


@dataclass(frozen=True)
class Edge:
    """All edges of attention from the tokens of one role, which read, to those of another, which are read."""

    start: Role
    end: Role

    @property
    def look(self) -> tuple[str, Any]:
        """Colour and line style in figures."""
        return _LOOKS.get((self.start, self.end), ("#56B4E9", "-"))

    @property
    def name(self) -> str:
        return f"{self.start}-{self.end}"

    @property
    def printed(self) -> str:
        """Its ends in words."""
        return f"{_WORDS[self.start]} to {_WORDS[self.end]}"

    def pairs(self, places: Mapping[Role, Sequence[int]]) -> tuple[tuple[int, int], ...]:
        """(reading, read) positions of the edges: a token sees itself and those before it."""
        return tuple((a, b) for a in places[self.start] for b in places[self.end] if b <= a)


EDGES: Mapping[str, Edge] = {
    one.name: one
    for one in (
        Edge("last", "subject"),
        Edge("last", "relation"),
        Edge("last", "last"),
        Edge("relation", "subject"),
        Edge("subject", "relation"),
    )
}
"""The edges that a plan cuts by name, in the order of figures."""

if TYPE_CHECKING:
    EdgeName = str
else:
    EdgeName = Literal[tuple(EDGES)]


def places(tokens: int, subject: Sequence[int], opening: int = 0) -> dict[Role, tuple[int, ...]]:
    """Positions of each role in a prompt of `tokens` tokens.

    The relation's are all but the subject's, the last, and the first `opening` ones, which stand for no text.
    """
    last = tokens - 1
    relation = tuple(at for at in range(opening, last) if at not in subject)
    return {"last": (last,), "relation": relation, "subject": tuple(subject)}


def scaled_window(layers: int, window: int = WINDOW) -> int:
    """The same share of the depth as `window` layers of 48, at least one layer; halves are rounded up."""
    return max(1, (2 * window * layers + _DEPTH) // (2 * _DEPTH))
