"""Numbers of two runs paired over their common cases, their traces side by side, and how alike they are case by case.

Covers paired means, traces by kind and perspective over the statements that both traced, and one sentence about every
case that both finished. Which units of two runs are compared is compare.py's.

Shape letters: F fact, R role, L layer, N case, V number of a scored case, X number of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from artifact.evaluation.metrics import VALUES
from artifact.facts.fact import Perspective
from artifact.plans.unit import Unit
from artifact.reporting.cells import COUNT, PROBABILITY, Cell, Grid, Line, Scale
from artifact.reporting.charts import finished_traces
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store
from artifact.tracing.averages import Traces, peak, roles
from artifact.tracing.kinds import TRACE_KINDS

_DECIDED_V = np.array([metric != "magnitude" for metric, _ in VALUES])
"""The numbers of a scored case that are shares of prompts; the others are probabilities."""
_Name = TypeVar("_Name")
PAIR_COLUMNS = ("first", "second", "second - first", "n")


@dataclass(frozen=True)
class Paired:
    """Means of both runs over the cases that both finished, and second minus first, paired, in the number's unit."""

    first: float
    second: float
    change: Estimate


@dataclass(frozen=True)
class PairedTraces:
    """A kind of trace that both runs have, from one perspective: the answer's probability in the clean and in the
    corrupted run, and the average indirect effect where the first run's is largest before the last token.

    `farthest` is the largest difference of any fact's probability or effect by role and layer.
    """

    kind: str
    perspective: Perspective
    numbers: Mapping[str, Paired]
    farthest: float


@dataclass(frozen=True)
class Alike:
    """Over the cases that both runs finished: scored ones, how many of these have the same success and accuracy in
    every column, the largest difference of a column's magnitude; traces, and their largest difference.
    """

    scored: int
    same: int
    farthest: float
    traced: int
    trace_farthest: float

    @property
    def sentence(self) -> str:
        """The same in one line; empty where the runs share no case."""
        parts = []
        if self.scored:
            parts.append(
                f"{self.same} of {self.scored} scored cases have the same success and accuracy in every column "
                f"(largest difference of a magnitude: {self.farthest:.2g})"
            )
        if self.traced:
            parts.append(
                f"in {self.traced} traces the largest difference of a probability or an effect is "
                f"{self.trace_farthest:.2g}"
            )
        return f"Case by case: {'; '.join(parts)}." if parts else ""


def paired(pairs: Mapping[_Name, tuple[Series, Series]]) -> dict[_Name, Paired]:
    """Both runs' means of each number over the cases that both have; a number without such a case is missing."""
    changes = estimates([second.minus(first) for first, second in pairs.values()], rates=False)
    found = {}
    for (name, (one, other)), change in zip(pairs.items(), changes, strict=True):
        if change is not None:
            means = one.among(other.cases_N).values_N.mean(), other.among(one.cases_N).values_N.mean()
            found[name] = Paired(float(means[0]), float(means[1]), change)
    return found


def pair_cells(pair: Paired | None, scale: Scale) -> tuple[Cell, ...]:
    """A line's cells under PAIR_COLUMNS."""
    return (
        Cell(pair.first if pair else None, scale=scale),
        Cell(pair.second if pair else None, scale=scale),
        Cell.of(pair.change if pair else None, scale.of_change),
        Cell(pair.change.n if pair else 0, scale=COUNT),
    )


def paired_traces(first: Store, second: Store) -> tuple[PairedTraces, ...]:
    """The traces of both runs, in the order of the first; none where they traced other statements, or in other windows
    or layers.
    """
    infos = first.info(), second.info()
    statements = [info.data_sha256 if info.traced is None else info.traced.sha256 for info in infos]
    if statements[0] != statements[1]:
        return ()
    windows = [_windows(info) for info in infos]
    here, there = finished_traces(first), finished_traces(second)
    both = [
        (key[0], one, there[key]) for key, one in here.items() if key in there and windows[0][key] == windows[1][key]
    ]
    return tuple(
        _paired_traces(kind, one, other)
        for kind, one, other in both
        if one.effects_FRL.shape[1:] == other.effects_FRL.shape[1:] and np.isin(one.cases_F, other.cases_F).any()
    )


def alike(stores: tuple[Store, Store], units: Sequence[tuple[Unit, Unit]], traces: Sequence[PairedTraces]) -> Alike:
    """What every case says that both runs finished, of the paired scoring units and traces."""
    scored, same, farthest = 0, 0, 0.0
    for both in units:
        apart_NV = _apart(*(store.numbers(unit) for store, unit in zip(stores, both, strict=True)))
        scored += len(apart_NV)
        same += int((apart_NV[:, _DECIDED_V] == 0).all(1).sum())
        farthest = max(farthest, float(apart_NV[:, ~_DECIDED_V].max(initial=0)))
    traced = sum(one.numbers["clean"].change.n for one in traces)
    return Alike(scored, same, farthest, traced, max((one.farthest for one in traces), default=0.0))


def traces_grid(traces: Sequence[PairedTraces]) -> Grid:
    """Both runs' means of each trace, a number a line, and the paired difference with its interval."""
    return Grid(
        name="compare-traces",
        title="Two runs: traces",
        caption="The answer's probability, and the average indirect effect at the role and layer where the first run's "
        "is largest before the last token; mean of each run over the n statements that both traced, and their paired "
        "difference with its 95% interval.",
        heads=("perspective", "restored", "number"),
        columns=PAIR_COLUMNS,
        lines=tuple(
            Line((one.perspective, TRACE_KINDS[one.kind].printed, name), pair_cells(pair, PROBABILITY))
            for one in traces
            for name, pair in one.numbers.items()
        ),
    )


def _windows(info: RunInfo) -> dict[tuple[str, Perspective], tuple[int, bool]]:
    """The window of each kind of trace, and whether it is scaled by the depth."""
    traces = (unit for unit in info.plan.units if unit.does == "trace")
    return {(unit.trace_kind.name, unit.perspective): (unit.window, unit.scaled) for unit in traces}


def _paired_traces(kind: str, first: Traces, second: Traces) -> PairedTraces:
    effects, names = first.role_effects(), roles(first.perspective)
    row, layer = peak(effects, bool(first.shared_last_F.any()))
    role = names.index(effects[row].role)
    both = first, second
    numbers = {
        "clean": [one.clean_F for one in both],
        "corrupted": [one.corrupted_F for one in both],
        f"effect, {names[role]}, layer {layer}": [one.effects_FRL[:, role, layer] for one in both],
    }
    rows = [
        np.column_stack([one.clean_F, one.corrupted_F, one.effects_FRL.reshape(len(one.cases_F), -1)]) for one in both
    ]
    apart_FX = _apart((first.cases_F, rows[0]), (second.cases_F, rows[1]))
    pairs = paired(
        {
            name: (Series.finite(first.cases_F, one_F), Series.finite(second.cases_F, other_F))
            for name, (one_F, other_F) in numbers.items()
        }
    )
    return PairedTraces(kind, first.perspective, pairs, float(apart_FX.max(initial=0)))


def _apart(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Absolute differences (N, X) of the cases that both have; infinite where only one has a number."""
    _, here_N, there_N = np.intersect1d(first[0], second[0], return_indices=True)
    one_NX, other_NX = first[1][here_N], second[1][there_N]
    apart_NX = np.abs(one_NX - other_NX)
    apart_NX[np.isnan(one_NX) & np.isnan(other_NX)] = 0
    return np.nan_to_num(apart_NX, nan=np.inf)
