"""The rows of the tables: what this run measured, with intervals and paired changes, and the published rows beside it.

Covers aggregating stored cases and judging each published cell. A published cell is measured only by a run of its model
that counts as evidence. verdict.py judges claims.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any, Literal, Protocol

import numpy as np

from artifact.editing.methods import METHODS, printed_name
from artifact.evaluation.metrics import ANOTHER_RELATION, METRICS, OPTIONAL, VALUES, Column, Group, Metric, columns_of
from artifact.facts.fact import Perspective, other_perspective
from artifact.plans.unit import CONTROL_WORDS, Control, Unit
from artifact.reporting.cells import POINTS
from artifact.reporting.equivalence import Tested, family, held_against
from artifact.reporting.expected import PublishedCell, Tolerance
from artifact.reporting.intervals import Estimate, Series, estimates, harmonic_means
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store

CellState = Literal["reproduced", "outside tolerance", "skipped", "not run"]
Cases = Mapping[tuple[Metric, Column], Series]
"""Finished cases' values by metric and column."""
RATES = (
    *(Column("entity", group) for group in ("reliability", "generality", "specificity")),
    *(Column("relation", group) for group in ("reliability", "generality")),
)
"""The five rates of success whose harmonic mean is the released code's overall score."""
TRANSFER_GROUPS: tuple[Group, ...] = ("reliability", "generality")
"""Groups of prompts that both perspectives have."""
_NONE = Series(np.empty(0, dtype=np.int64), np.empty(0))


class HasValues(Protocol):
    """A row of a table: its numbers by metric and column."""

    @property
    def values(self) -> Mapping[tuple[Metric, Column], Any]: ...


@dataclass(frozen=True)
class Value:
    """One number of a row: the mean over cases, and the paired change against the unedited model (None for that row).

    Success and accuracy are fractions, magnitude a difference of probabilities.
    """

    mean: Estimate
    change: Estimate | None


@dataclass(frozen=True)
class MeasuredRow:
    """One unit of the run: which edit, what each column gives by metric, and how many cases it rests on.

    `edited` is None for the unedited model. `planned` is how many cases the plan holds for the unit; a column
    without prompts in the data, or without a finished case, has no value. `gaps` holds, for an edit, the edited
    perspective minus the other perspective, case by case: what of the edit did not carry over; its change is the
    gap of the changes. `undone` marks rows whose edit was undone before the scoring, as the released code does with
    KN's: the numbers are the unedited model's, and a gap would say nothing of the edit. `unedited` counts the cases
    whose edit changes nothing (Method.unchanged): they are done, and their numbers are the unedited model's.
    `ordered`: each case's numbers depend on the cases edited before it. `skipped` is why every case was left out,
    where all share one reason.
    """

    unit: str
    edited: Perspective | None
    method: str
    values: Mapping[tuple[Metric, Column], Value]
    gaps: Mapping[tuple[Metric, Group], Value]
    done: int
    failed: int
    excluded: int
    planned: int
    complete: bool
    undone: bool = False
    unedited: int = 0
    ordered: bool = False
    skipped: str = ""
    control: Control | None = None
    overall: Estimate | None = None
    """The harmonic mean of RATES; None where one of them has no case."""

    @property
    def begun(self) -> bool:
        """Whether a case of it is recorded."""
        return self.done + self.failed + self.excluded > 0

    @property
    def printed_method(self) -> str:
        """The method's name; controls are named, and so are edits that were undone before scoring, as the released code
        undoes KN's, and cases that no edit changed.
        """
        marks = ([] if self.control is None else [CONTROL_WORDS[self.control]]) + ["undone"] * self.undone
        if self.unedited:
            marks.append(f"{self.unedited} {METHODS[self.method].unchanged}")
        return ", ".join([printed_name(self.method), *marks])


@dataclass(frozen=True)
class JudgedCell:
    """A published cell with what this run says of it: `measured` in percent (None: not run) and a status in words.

    `needs` says what a run would have to bring to measure it, or why this run skipped it.

    `partial` marks a run on fewer facts than its plan's full list; it is judged by whether its interval meets the
    tolerance band.
    """

    cell: PublishedCell
    tolerance: Tolerance
    measured: Estimate | None
    state: CellState
    partial: bool
    needs: str
    failed: int = 0
    tested: Tested | None = None
    """The measured value held against the published one, corrected over the cells of its table; it decides nothing."""

    @property
    def status(self) -> str:
        """The state with its qualification or what is missing."""
        if self.state == "not run":
            return f"not run: needs {self.needs}"
        if self.state == "skipped":
            return f"skipped: {self.needs}"
        marks = ["partial"] * self.partial + ["wide tolerance"] * self.tolerance.wide
        marks += [f"{self.failed} failed"] * bool(self.failed)
        return f"{self.state} ({', '.join(marks)})" if marks else self.state


@dataclass(frozen=True)
class JudgedRow:
    """One row of a published table, a judged cell a column."""

    cells: tuple[JudgedCell, ...]

    @property
    def source(self) -> PublishedCell:
        """What all cells of the row share: table, model, method and edit."""
        return self.cells[0].cell

    @property
    def printed_method(self) -> str:
        return printed_name(self.source.method)

    @property
    def status(self) -> str:
        """The row's status in one line: one status if its cells agree, else how often each occurs."""
        counts = Counter(cell.status for cell in self.cells)
        if len(counts) == 1:
            return self.cells[0].status
        return ", ".join(f"{count} {status}" for status, count in counts.items())


def own_rows(store: Store) -> list[MeasuredRow]:
    """A row for each unit of the run that scores a model under the run's own protocol, in the plan's order."""
    info = store.info()
    units = [unit for unit in info.plan.units if unit.does in ("unedited", "edit") and not unit.correct]
    scored = {unit.name: scored_cases(store, unit) for unit in units}
    base = next((unit for unit in units if unit.does == "unedited"), None)
    before: Cases = scored[base.name] if base else {}
    # All intervals are asked for at once: numbers over equally many cases share their resamples.
    wanted: dict[tuple[str, str, tuple[Metric, Column] | tuple[Metric, Group]], Series] = {}
    for unit in units:
        after = scored[unit.name]
        for key, series in after.items():
            wanted["mean", unit.name, key] = series
            if unit.does == "edit" and key in before:
                wanted["change", unit.name, key] = series.minus(before[key])
        if unit.does == "edit" and not undone(info, unit):
            for gap, (whole, of_changes) in _gaps(unit.perspective, after, before).items():
                wanted["gap", unit.name, gap] = whole
                wanted["gap of changes", unit.name, gap] = of_changes
    # A rate counts successes; a magnitude is a difference of probabilities, even where every one is 0 or 1.
    means = [kind == "mean" and key[0] != "magnitude" for kind, _, key in wanted]
    estimated = dict(zip(wanted, estimates(list(wanted.values()), means, info.relations), strict=True))

    def values(kind: str, of_change: str, unit: Unit) -> dict:
        present = [key for one, name, key in wanted if (one, name) == (kind, unit.name)]
        return {
            key: Value(mean, estimated.get((of_change, unit.name, key)))
            for key in present
            if (mean := estimated[kind, unit.name, key]) is not None
        }

    counts = defaultdict(Counter, store.counts())
    rows = [
        _row(store, unit, counts[unit.name], values("mean", "change", unit), values("gap", "gap of changes", unit))
        for unit in units
    ]
    rates = [[scored[row.unit].get(("success", column), _NONE) for column in RATES] for row in rows]
    return [replace(row, overall=overall) for row, overall in zip(rows, harmonic_means(rates), strict=True)]


def hard_column(perspective: Perspective, group: Group = "reliability") -> Column:
    """A perspective's own prompts; the relation's against another relation: against the word "None" an unedited model
    leaves little to rise.
    """
    return Column(perspective, group, ANOTHER_RELATION if perspective == "relation" else "")


def shown_columns(metric: Metric, rows: Iterable[HasValues]) -> tuple[Column, ...]:
    """The metric's columns, without those of groups that no row has prompts for (OPTIONAL)."""
    held = {column for row in rows for one, column in row.values if one == metric}
    return tuple(column for column in columns_of(metric) if column.group not in OPTIONAL or column in held)


def scored_cases(store: Store, unit: Unit) -> dict[tuple[Metric, Column], Series]:
    """Finished cases' values by metric and column; a case without prompts for a column does not count for it."""
    cases_N, numbers_NX = store.numbers(unit)
    cases = {}
    for x, key in enumerate(VALUES):
        has_N = np.isfinite(numbers_NX[:, x])
        if has_N.any():
            cases[key] = Series(cases_N[has_N], numbers_NX[has_N, x])
    return cases


def judged_rows(
    cells: Sequence[PublishedCell], runs: Mapping[str, tuple[RunInfo, Sequence[MeasuredRow]]]
) -> list[JudgedRow]:
    """The published rows, each cell compared with the rows of the run of its model, where that run is evidence."""
    judged = [judge(cell, *runs.get(cell.model, (None, ()))) for cell in cells]
    for table in dict.fromkeys(cell.table for cell in cells):
        found = {one.cell.id: test for one in judged if one.cell.table == table and (test := _against_published(one))}
        corrected = dict(zip(found, family(found.values()), strict=True))
        judged = [replace(one, tested=corrected.get(one.cell.id, one.tested)) for one in judged]
    rows = groupby(judged, key=lambda one: (one.cell.table, one.cell.model, one.cell.method))
    return [JudgedRow(tuple(row)) for _, row in rows]


def _against_published(judged: JudgedCell) -> Tested | None:
    """The measured value held against the published one, with the tolerance as margin, in percent."""
    cell = judged.cell
    of, name = f"{printed_name(cell.method)}, {cell.printed_model}", Column(cell.perspective, cell.group).name
    return held_against(of, name, judged.measured, POINTS.of_change, cell.value, judged.tolerance.points)


def judge(cell: PublishedCell, info: RunInfo | None, rows: Sequence[MeasuredRow]) -> JudgedCell:
    """Compare one published cell with the run: inside its tolerance, outside, or what it would need to be run."""
    tolerance = cell.tolerance if info is None else cell.tolerance_with(info.relations_rebuilt)

    def not_run(needs: str) -> JudgedCell:
        return JudgedCell(cell, tolerance, None, "not run", False, needs)

    if info is None:
        return not_run(cell.model)
    if not info.evidence:
        return not_run(f"{cell.model} in a run that counts as evidence")
    method = printed_name(cell.method)
    wanted = f"{cell.model} with {method}" + (f", {cell.edited} edits" if cell.edited else "")
    wanted_row = (cell.method, cell.edited, None)
    row = next((row for row in rows if (row.method, row.edited, row.control) == wanted_row), None)
    if row is None:
        return not_run(wanted)
    if cell.edit_applied and row.undone:
        return not_run(f"{wanted}, scored with its edit (--protocol corrected, or --correct kn_undone)")
    if row.skipped:
        return JudgedCell(cell, tolerance, None, "skipped", False, row.skipped)
    value = row.values.get(("success", Column(cell.perspective, cell.group)))
    if value is None:
        return not_run(f"{wanted}: no finished case has this column")
    measured = value.mean.scaled(100)
    low, high = cell.value - tolerance.points, cell.value + tolerance.points
    lowest, highest = (measured.mean, measured.mean) if row.complete else (measured.low, measured.high)
    inside = lowest <= high and highest >= low
    state: CellState = "reproduced" if inside else "outside tolerance"
    return JudgedCell(cell, tolerance, measured, state, not row.complete, "", row.failed)


@dataclass(frozen=True)
class Reason:
    """Why cases do not count: how many in all, how many by unit, the first case ids, and whether there are more."""

    status: str
    text: str
    count: int
    units: Mapping[str, int]
    first_cases: tuple[int, ...]
    more: bool


WITHIN = "failed within cases"
"""Of a part of a task's case, such as one of its edits, whose other parts have numbers."""


def counted_reasons(store: Store) -> list[Reason]:
    """All reasons for which cases, or parts of a task's cases, failed or were excluded, most frequent first."""
    reasons: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for unit in store.info().plan.units:
        for record in store.unfinished(unit):
            # The case's own number would make every reason a kind of its own.
            text = record.reason.removeprefix(f"case {record.case_id}: ") or "no reason was recorded"
            reasons.setdefault((record.status, text), []).append((unit.name, record.case_id))
        for record in store.records(unit) if unit.does == "task" else ():
            for text in _reasons_in(record.payload) if record.status == "done" else ():
                reasons.setdefault((WITHIN, text), []).append((unit.name, record.case_id))
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        Reason(
            status,
            text,
            len(hits),
            dict(Counter(unit for unit, _ in hits)),
            tuple(sorted({case for _, case in hits})[:5]),
            len({case for _, case in hits}) > 5,
        )
        for (status, text), hits in ordered
    ]


def _reasons_in(told: object) -> Iterator[str]:
    """What the parts of a task's payload give as the reason why they have no numbers."""
    if isinstance(told, dict):
        if isinstance(reason := told.get("reason"), str):
            yield reason
        for part in told.values():
            yield from _reasons_in(part)
    elif isinstance(told, list) and told and isinstance(told[0], dict):  # not lists of numbers
        for part in told:
            yield from _reasons_in(part)


def _row(
    store: Store,
    unit: Unit,
    counts: Counter[str],
    values: Mapping[tuple[Metric, Column], Value],
    gaps: Mapping[tuple[Metric, Group], Value],
) -> MeasuredRow:
    info, method = store.info(), METHODS.get(unit.method)
    planned = info.planned(unit)
    reasons = (
        {record.reason for record in store.unfinished(unit)} if counts["excluded"] == counts.total() > 0 else set()
    )
    return MeasuredRow(
        unit=unit.name,
        edited=unit.perspective if unit.does == "edit" else None,
        method=unit.method,
        values=values,
        gaps=gaps,
        done=counts["done"],
        failed=counts["failed"],
        excluded=counts["excluded"],
        planned=planned,
        complete=info.limit is None and unit.most is None and counts.total() >= planned,
        undone=undone(info, unit),
        unedited=store.unedited(unit) if method and method.unchanged else 0,
        ordered=method is not None and method.ordered(info.switches),
        skipped=reasons.pop() if len(reasons) == 1 else "",
        control=unit.control,
    )


def undone(info: RunInfo, unit: Unit) -> bool:
    """Whether the run scored the model with the unit's edit taken back, as the released code does with KN's."""
    switches = {**info.switches, **dict.fromkeys(unit.correct, False)}
    return unit.method in METHODS and METHODS[unit.method].undone(switches)


def _gaps(edited: Perspective, after: Cases, before: Cases) -> dict[tuple[Metric, Group], tuple[Series, Series]]:
    """The edited perspective minus the other over the cases with both, and the same of the changes against `before`."""
    gaps, other = {}, other_perspective(edited)
    for metric, group in product(METRICS, TRANSFER_GROUPS):
        here, there = (metric, Column(edited, group)), (metric, Column(other, group))
        if here in after and there in after:
            changes = [after[key].minus(before.get(key, _NONE)) for key in (here, there)]
            gaps[metric, group] = (after[here].minus(after[there]), changes[0].minus(changes[1]))
    return gaps
