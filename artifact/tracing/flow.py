"""Averages of attention knockouts over facts, from stored records, and Gini's coefficient. No torch.

Covers the numbers of a record as one row, and back: the change of the answer's probability by edge and layer, in which
layers a module has the answer first, and the answer's probability by role and layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from artifact.tracing.edges import ROLES, Edge

MODULES: tuple[Literal["attn", "mlp"], ...] = ("attn", "mlp")
"""The modules whose outputs are read through the output head, in the order of arrays."""
LEAST_DROP = 0.01
"""Of the probability before: a fact whose probability never drops by as much says nothing about where it drops."""
LENS_ROLES = ("subject", "relation", "last")
"""Of the subject and the relation the last token of each is read."""


def knockout_numbers(record: Mapping[str, Any]) -> np.ndarray:
    """What averages need of one stored knockout (tracing/knockout.py), as one row of numbers.

    In order: layers, edges, the answer's probability before; which modules have the answer first in which layer (module
    by module); the answer's probability by role and layer; and for every edge its two ends, how many pairs it joins,
    the change of the probability by layer, and whether a module has the answer first in any layer under the window
    about each layer (module by module).
    """
    layers, before = len(record["lens"][0]), record["before"]
    first_ML = [_marks(record["extracted"][module], layers) for module in MODULES]
    lens_RL = np.full((len(LENS_ROLES), layers), np.nan)
    last = {"subject": record["subject"], "relation": record["relation"], "last": [len(record["tokens"]) - 1]}
    for row, role in enumerate(LENS_ROLES):
        if last[role]:
            lens_RL[row] = record["lens"][last[role][-1]]
    parts: list[Any] = [[layers, len(record["cuts"]), before], *first_ML, lens_RL.ravel()]
    for cut in record["cuts"]:
        start, end = cut["edge"].split("-")
        change_L = (np.array(cut["after"]) - before) / before
        any_ML = [[bool(found) for found in cut["extracted"][module]] for module in MODULES]
        parts += [[ROLES.index(start), ROLES.index(end), cut["removed"]], change_L, *any_ML]
    return np.concatenate([np.asarray(part, dtype=float) for part in parts])


def _marks(layers: Sequence[int], count: int) -> np.ndarray:
    marks_L = np.zeros(count)
    marks_L[list(layers)] = 1
    return marks_L


@dataclass(frozen=True)
class EdgeFlow:
    """One edge's knockouts, a row a fact (F): pairs of tokens removed, changes by layer (L), and whether a module (M)
    has the answer first in any layer under the window about each layer.
    """

    edge: Edge
    removed_F: np.ndarray
    change_FL: np.ndarray
    first_FML: np.ndarray


@dataclass(frozen=True)
class Flows:
    """Finished knockouts of one kind of prompt, a row a fact (F): probabilities before, modules (M) that have the
    answer first by layer, the answer's probability by role (R) and layer, and each edge's.
    """

    cases_F: np.ndarray
    before_F: np.ndarray
    first_FML: np.ndarray
    lens_FRL: np.ndarray
    edges: tuple[EdgeFlow, ...]

    def edge(self, name: str) -> EdgeFlow | None:
        """The edge of that name, where it was removed."""
        return next((one for one in self.edges if one.edge.name == name), None)


def flows_of(cases_F: np.ndarray, numbers_FX: np.ndarray) -> Flows:
    """The knockouts whose `knockout_numbers` are the rows of numbers_FX, one row at least."""
    layers, count = (int(n) for n in numbers_FX[0, :2])
    facts, modules, roles = len(numbers_FX), len(MODULES), len(LENS_ROLES)
    at = 3

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return numbers_FX[:, at - size : at].reshape(facts, *shape)

    first_FML, lens_FRL = take(modules, layers), take(roles, layers)
    edges = []
    for _ in range(count):
        ends_F3 = take(3)
        start, end = (ROLES[int(role)] for role in ends_F3[0, :2])
        edges.append(EdgeFlow(Edge(start, end), ends_F3[:, 2], take(layers), take(modules, layers)))
    return Flows(cases_F, numbers_FX[:, 2], first_FML, lens_FRL, tuple(edges))


def drop_depth(change_FL: np.ndarray) -> np.ndarray:
    """Where each fact's probability drops, as a share of the depth (F,): the mean layer, weighted by the drops.

    0 is the first layer's centre of a very deep model, 1 the last's; nan for a fact whose probability drops by less
    than LEAST_DROP everywhere, which rounding alone can do.
    """
    drop_FL = np.maximum(-change_FL, 0)
    drop_FL = np.where(drop_FL.max(1, keepdims=True) < LEAST_DROP, 0, drop_FL)
    depth_L = (np.arange(change_FL.shape[1]) + 0.5) / change_FL.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drop_FL * depth_L).sum(1) / drop_FL.sum(1)


def gini(values_L: np.ndarray) -> float:
    """Gini's coefficient of values that are at least zero (others count as zero): 0 all alike, (L-1)/L one alone.

    nan where no value is above zero.
    """
    sorted_L = np.sort(np.maximum(np.asarray(values_L, dtype=float), 0))
    count, whole = len(sorted_L), sorted_L.sum()
    if not whole > 0:
        return float("nan")
    return float((2 * np.arange(1, count + 1) - count - 1) @ sorted_L / (count * whole))
