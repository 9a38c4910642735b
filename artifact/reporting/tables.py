"""The rows of the tables: what this run measured, with intervals and paired changes, and the published rows beside it.

Covers aggregating stored cases and judging each published cell. A published cell is measured only by a run of its model
that counts as evidence. It does not judge claims (verdict.py) and writes no file (grids.py, report.py).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Literal

from artifact.evaluation.metrics import METRICS, Group, Metric
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.plan import Unit
from artifact.reporting.expected import Cell, Tolerance
from artifact.reporting.intervals import Estimate, estimate, paired_change
from artifact.runs.store import Record, RunInfo, Store

CellState = Literal["reproduced", "outside tolerance", "not run"]
_Cases = Mapping[tuple[Metric, "Column"], Mapping[int, float]]
TRANSFER_GROUPS: tuple[Group, ...] = ("reliability", "generality")
"""Groups of prompts that both views have."""
METHOD_NAMES = {"none": "unedited", "ft": "FT", "kn": "KN", "mend": "MEND", "rome": "ROME", "memit": "MEMIT"}
"""How tables print the methods of the plan."""


@dataclass(frozen=True)
class Column:
    """One column of every table: prompts of which view, which group."""

    view: Perspective
    group: Group

    @property
    def name(self) -> str:
        return f"{self.view} {self.group}"


COLUMNS = (
    Column("entity", "reliability"),
    Column("entity", "generality"),
    Column("entity", "specificity"),
    Column("relation", "reliability"),
    Column("relation", "generality"),
)


@dataclass(frozen=True)
class Value:
    """One number of a row: the mean over cases, and the paired change against the unedited model (None for that row).

    Success and accuracy are fractions, magnitude a difference of probabilities.
    """

    mean: Estimate
    change: Estimate | None


@dataclass(frozen=True)
class Row:
    """One unit of the run: which edit, what each column gives by metric, and how many cases it rests on.

    `edited` is None for the unedited model. `planned` is how many cases the plan holds for the unit; a column without
    prompts in the data, or without a finished case, has no value. `gaps` holds, for an edit, the edited view minus the
    other view, case by case: what of the edit did not carry over; its change is the gap of the changes. `undone` marks
    rows whose edit was undone before the scoring, as the released code does with KN's: the numbers are the unedited
    model's.
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

    @property
    def printed_method(self) -> str:
        """The method's name; an edit that was undone before scoring, as the released code undoes KN's, says so."""
        name = METHOD_NAMES.get(self.method, self.method)
        return f"{name}, undone" if self.undone else name


@dataclass(frozen=True)
class PaperCell:
    """A published cell with what this run says of it: `measured` in percent (None: not run) and a status in words.

    `partial` marks a run on fewer facts than its plan's full list; it is judged by whether its interval meets the
    tolerance band.
    """

    cell: Cell
    tolerance: Tolerance
    measured: Estimate | None
    state: CellState
    partial: bool
    needs: str
    failed: int = 0

    @property
    def status(self) -> str:
        """The state with its qualification or what is missing."""
        if self.state == "not run":
            return f"not run: needs {self.needs}"
        marks = ["partial"] * self.partial + ["wide tolerance"] * self.tolerance.wide
        marks += [f"{self.failed} failed"] * bool(self.failed)
        return f"{self.state} ({', '.join(marks)})" if marks else self.state


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table, a judged cell a column."""

    table: str
    where: str
    paper: str
    model: str
    printed_model: str
    method: str
    edited: Perspective | None
    cells: tuple[PaperCell, ...]

    @property
    def printed_method(self) -> str:
        return METHOD_NAMES.get(self.method, self.method)

    @property
    def status(self) -> str:
        """The row's status in one line: one status if its cells agree, else how often each occurs."""
        counts = Counter(cell.status for cell in self.cells)
        if len(counts) == 1:
            return self.cells[0].status
        return ", ".join(f"{count} {status}" for status, count in counts.items())


def own_rows(store: Store) -> list[Row]:
    """A row for each unit of the run that scores a model, in the plan's order."""
    info = store.info()
    units = [unit for unit in info.plan.units if unit.does in ("unedited", "edit")]
    records = {unit.name: store.records(unit) for unit in units}
    base = next((unit for unit in units if unit.does == "unedited"), None)
    before = case_values(records[base.name]) if base else {}
    return [_row(info, unit, records[unit.name], before) for unit in units]


def paper_rows(cells: Sequence[Cell], info: RunInfo, rows: Sequence[Row]) -> list[PaperRow]:
    """The published rows, each cell compared with the run's `rows` where this run is evidence for it."""
    found = []
    for _, group in groupby(cells, key=lambda cell: (cell.table, cell.model, cell.method)):
        judged = tuple(judge(cell, info, rows) for cell in group)
        first = judged[0].cell
        found.append(
            PaperRow(
                first.table,
                first.where,
                first.paper,
                first.model,
                first.printed_model,
                first.method,
                first.edited,
                judged,
            )
        )
    return found


def judge(cell: Cell, info: RunInfo, rows: Sequence[Row]) -> PaperCell:
    """Compare one published cell with the run: inside its tolerance, outside, or what it would need to be run."""
    tolerance = cell.tolerance_with(info.data_source)

    def not_run(needs: str) -> PaperCell:
        return PaperCell(cell, tolerance, None, "not run", False, needs)

    if info.model != cell.model:
        return not_run(cell.model)
    if not info.evidence:
        return not_run(f"{cell.model} in a run that counts as evidence")
    method = METHOD_NAMES.get(cell.method, cell.method)
    wanted = f"{cell.model} with {method}" + (f", {cell.edited} edits" if cell.edited else "")
    row = next((row for row in rows if row.method == cell.method and row.edited == cell.edited), None)
    if row is None:
        return not_run(wanted)
    value = row.values.get(("success", Column(cell.view, cell.group)))
    if value is None:
        return not_run(f"{wanted}: no finished case has this column")
    measured = value.mean.scaled(100)
    low, high = cell.value - tolerance.points, cell.value + tolerance.points
    lowest, highest = (measured.mean, measured.mean) if row.complete else (measured.low, measured.high)
    inside = lowest <= high and highest >= low
    state: CellState = "reproduced" if inside else "outside tolerance"
    return PaperCell(cell, tolerance, measured, state, not row.complete, "", row.failed)


@dataclass(frozen=True)
class Reason:
    """Why cases do not count: how many in all, how many by unit, the first case ids, and whether there are more."""

    status: str
    text: str
    count: int
    units: Mapping[str, int]
    first_cases: tuple[int, ...]
    more: bool


def counted_reasons(store: Store) -> list[Reason]:
    """All reasons for which cases failed or were excluded, most frequent first."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for unit in store.info().plan.units:
        for record in store.records(unit):
            if record.status != "done":
                # The case's own number would make every reason a kind of its own.
                text = record.reason.removeprefix(f"case {record.case_id}: ") or "no reason was recorded"
                found.setdefault((record.status, text), []).append((unit.name, record.case_id))
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
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


def _row(info: RunInfo, unit: Unit, records: Sequence[Record], before: _Cases) -> Row:
    after = case_values(records)
    values: dict[tuple[Metric, Column], Value] = {}
    for key, by_case in after.items():
        mean = estimate(list(by_case.values()))
        if mean is not None:
            change = paired_change(before[key], by_case) if unit.does == "edit" and key in before else None
            values[key] = Value(mean, change)
    counts = Counter(record.status for record in records)
    planned = len(info.cases) if unit.most is None else min(unit.most, len(info.cases))
    return Row(
        unit=unit.name,
        edited=unit.perspective if unit.does == "edit" else None,
        method=unit.method,
        values=values,
        gaps=_gaps(unit.perspective, after, before) if unit.does == "edit" else {},
        done=counts["done"],
        failed=counts["failed"],
        excluded=counts["excluded"],
        planned=planned,
        complete=info.limit is None and unit.most is None and len(records) >= planned,
        undone=any(record.payload.get("undone") is True for record in records),
    )


def _gaps(edited: Perspective, after: _Cases, before: _Cases) -> dict[tuple[Metric, Group], Value]:
    """The edited view minus the other, over the cases that have both; its change is that of the views' changes."""
    other = next(view for view in PERSPECTIVES if view != edited)
    found: dict[tuple[Metric, Group], Value] = {}
    for metric, group in product(METRICS, TRANSFER_GROUPS):
        here, there = (metric, Column(edited, group)), (metric, Column(other, group))
        gap = paired_change(after.get(there, {}), after.get(here, {}))
        if gap is None:
            continue
        changes = [
            {case: value - before[key][case] for case, value in after[key].items() if case in before.get(key, {})}
            for key in (there, here)
        ]
        found[metric, group] = Value(gap, paired_change(*changes))
    return found


def case_values(records: Sequence[Record]) -> dict[tuple[Metric, Column], dict[int, float]]:
    """Finished cases' values by metric and column; a case without prompts for a column does not count for it."""
    found: dict[tuple[Metric, Column], dict[int, float]] = {}
    for record in records:
        if record.status != "done":
            continue
        for column in COLUMNS:
            metrics = record.payload["views"].get(column.view, {}).get("metrics", {}).get(column.group) or {}
            for metric in METRICS:
                value = metrics.get(metric)
                if value is not None and math.isfinite(value):
                    found.setdefault((metric, column), {})[record.case_id] = float(value)
    return found
