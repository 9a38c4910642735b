"""Two runs' traces side by side, and how alike the two runs are case by case.

Covers pairing traces by kind and perspective over the statements that both traced, and one sentence about every case
that both finished. Paired means of scores are compare.py's.

Shape letters: F fact, R role, L layer, N case, V number of a scored case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from artifact.evaluation.metrics import VALUES
from artifact.facts.fact import Perspective
from artifact.plans.unit import Unit
from artifact.reporting.cells import COUNT, PROBABILITY, Cell, Grid, Line
from artifact.reporting.charts import finished_traces
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store
from artifact.tracing.averages import Traces, roles
from artifact.tracing.kinds import TRACE_KINDS

_DECIDED_V = np.array([metric != "magnitude" for metric, _ in VALUES])
"""The numbers of a scored case that are shares of prompts; the others are probabilities."""


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
    numbers: tuple[tuple[str, Paired], ...]
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
    found = []
    for key, one in here.items():
        other = there.get(key)
        if other is None or windows[0][key] != windows[1][key]:
            continue
        if one.effects_FRL.shape[1:] != other.effects_FRL.shape[1:]:
            continue
        shared_F = np.intersect1d(one.cases_F, other.cases_F)
        if len(shared_F):
            found.append(_paired_traces(key[0], _among(one, shared_F), _among(other, shared_F)))
    return tuple(found)


def alike(stores: tuple[Store, Store], units: Sequence[tuple[Unit, Unit]], traces: Sequence[PairedTraces]) -> Alike:
    """What every case says that both runs finished, of the paired scoring units and traces."""
    scored, same, farthest = 0, 0, 0.0
    for both in units:
        apart_NV = _apart(*(store.numbers(unit) for store, unit in zip(stores, both, strict=True)))
        scored += len(apart_NV)
        same += int((apart_NV[:, _DECIDED_V] == 0).all(1).sum())
        farthest = max(farthest, float(apart_NV[:, ~_DECIDED_V].max(initial=0)))
    traced = sum(one.numbers[0][1].change.n for one in traces)
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
        columns=("first", "second", "second - first", "n"),
        lines=tuple(
            Line((one.perspective, TRACE_KINDS[one.kind].printed, name), tuple(_cells(pair)))
            for one in traces
            for name, pair in one.numbers
        ),
    )


def _windows(info: RunInfo) -> dict[tuple[str, Perspective], tuple[int, bool]]:
    """The window of each kind of trace, and whether it is scaled by the depth."""
    traces = (unit for unit in info.plan.units if unit.does == "trace")
    return {(unit.trace_kind.name, unit.perspective): (unit.window, unit.scaled) for unit in traces}


def _cells(pair: Paired) -> Iterator[Cell]:
    yield Cell(pair.first, scale=PROBABILITY)
    yield Cell(pair.second, scale=PROBABILITY)
    yield Cell.of(pair.change, PROBABILITY.of_change)
    yield Cell(pair.change.n, scale=COUNT)


def _among(traces: Traces, cases_F: np.ndarray) -> Traces:
    """These cases alone, by case id."""
    at_F = np.searchsorted(traces.cases_F, cases_F)
    rows = (traces.clean_F, traces.corrupted_F, traces.shared_last_F, traces.tokens_FR, traces.effects_FRL)
    return Traces(traces.perspective, cases_F, *(one[at_F] for one in rows))


def _paired_traces(kind: str, first: Traces, second: Traces) -> PairedTraces:
    role, layer = _peak(first)
    named = {
        "clean": (first.clean_F, second.clean_F),
        "corrupted": (first.corrupted_F, second.corrupted_F),
        f"effect, {roles(first.perspective)[role]}, layer {layer}": (
            first.effects_FRL[:, role, layer],
            second.effects_FRL[:, role, layer],
        ),
    }
    pairs = [[Series.finite(first.cases_F, one_F) for one_F in both] for both in named.values()]
    changes = estimates([other.minus(one) for one, other in pairs], rates=False)
    numbers = [
        (name, Paired(float(one.values_N.mean()), float(other.values_N.mean()), change))
        for name, (one, other), change in zip(named, pairs, changes, strict=True)
        if change is not None
    ]
    apart = [_largest(*both) for both in (*list(named.values())[:2], (first.effects_FRL, second.effects_FRL))]
    return PairedTraces(kind, first.perspective, tuple(numbers), max(apart))


def _peak(traces: Traces) -> tuple[int, int]:
    """The role and layer of the largest mean effect; at the last token late layers recover by construction."""
    has_R = (traces.tokens_FR > 0).any(0)
    early_R = has_R & np.array([role != "last token" for role in roles(traces.perspective)])
    if traces.shared_last_F.any():
        early_R &= np.array([role != "last corrupted token" for role in roles(traces.perspective)])
    counted_R = early_R if early_R.any() else has_R
    mean_RL = np.full(traces.effects_FRL.shape[1:], -np.inf)
    mean_RL[counted_R] = np.nanmean(traces.effects_FRL[:, counted_R], axis=0)
    role, layer = np.unravel_index(int(mean_RL.argmax()), mean_RL.shape)
    return int(role), int(layer)


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; infinite where one has a number and the other none."""
    apart = np.abs(one - other)
    apart[np.isnan(one) & np.isnan(other)] = 0
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def _apart(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Absolute differences (N, V) of the cases that both have; infinite where only one has a number."""
    _, here_N, there_N = np.intersect1d(first[0], second[0], return_indices=True)
    one_NV, other_NV = first[1][here_N], second[1][there_N]
    apart_NV = np.abs(one_NV - other_NV)
    apart_NV[np.isnan(one_NV) & np.isnan(other_NV)] = 0
    return np.nan_to_num(apart_NV, nan=np.inf)
