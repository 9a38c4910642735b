"""Windows of layers about every layer, and how rows with such windows go through the decoder together.

Windows that have not diverged yet are alike: they share their rows, as one group. No torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_WINDOW = 100_000
"""Layers of a window that settings take at most; more than any model has."""


def around(layers: int, window: int) -> list[range]:
    """The window of so many layers about every layer l, max(0, l - w//2) .. min(L, l + ceil(w/2)) - 1."""
    low, high = window // 2, -(-window // 2)
    return [range(max(0, centre - low), min(layers, centre + high)) for centre in range(layers)]


@dataclass(frozen=True)
class Step:
    """What happens before block `layer`: the rows of a new group join, then groups that split are copied to the end.

    `inside` says of every group whether `layer` is in its windows.
    """

    layer: int
    joins: bool
    copies: tuple[int, ...]
    inside: tuple[bool, ...]


def steps(
    windows: Sequence[range], centres: Sequence[int], layers: int, after: int = 0
) -> tuple[list[Step], Mapping[int, int]]:
    """The steps of the windows about these layers, and the group that each of them ends in.

    A group joins at the first layer of its windows or, with `after` 1, past it: then the last step may be at `layers`,
    after every block.
    """
    groups: list[list[int]] = []  # the centres of each group
    found = []
    for layer in range(after + min(windows[c].start for c in centres), layers + after):
        joining = [c for c in centres if windows[c].start + after == layer]
        if joining:
            groups.append(joining)
        copies = []
        for g, members in enumerate(list(groups)):
            ended = [c for c in members if windows[c].stop <= layer]
            if ended and len(ended) < len(members):
                groups[g] = [c for c in members if c not in ended]
                groups.append(ended)
                copies.append(g)
        inside = tuple(layer in windows[members[0]] for members in groups)
        found.append(Step(layer, bool(joining), tuple(copies), inside))
    return found, {c: g for g, members in enumerate(groups) for c in members}
