"""No published value stands idle: each decides a cell, each bound and order a claim, and nothing else."""

from dataclasses import replace

import msgspec
import pytest

from artifact.evaluation.metrics import Column
from artifact.reporting.expected import PublishedCell, load_expected
from artifact.reporting.figure_claims import TracedEffects
from artifact.reporting.intervals import Estimate
from artifact.reporting.tables import MeasuredRow, Value, judged_rows
from artifact.reporting.verdict import MeasuredRun, judge_claim, reach_verdict
from artifact.runs.describe import RunInfo
from artifact.runs.store import Store

EXPECTED = load_expected()
CELLS = {cell.id: cell for cell in (*EXPECTED.cells, *EXPECTED.second_source)}
Values = dict[str, float]


def rows_at(cells: tuple[PublishedCell, ...], values: Values) -> dict[str, list[MeasuredRow]]:
    """By model: rows in which each of the cells was measured at its value, in percent."""
    found: dict[str, dict[tuple[str, str | None], MeasuredRow]] = {}
    for cell in cells:
        rows = found.setdefault(cell.model, {})
        key = (cell.method, cell.edited)
        if key not in rows:
            rows[key] = MeasuredRow(cell.id, cell.edited, cell.method, {}, {}, 7500, 0, 0, 7500, True)
        share = values[cell.id] / 100
        value = Value(Estimate(share, max(0, share - 0.005), min(1, share + 0.005), 7500), None)
        rows[key] = replace(
            rows[key], values={**rows[key].values, ("success", Column(cell.perspective, cell.group)): value}
        )
    return {model: list(rows.values()) for model, rows in found.items()}


def shifted(cell: PublishedCell) -> float:
    """A value outside the cell's tolerance that is still a percentage."""
    away = cell.tolerance.points + 0.6
    return cell.value + away if cell.value + away <= 100 else cell.value - away


@pytest.fixture
def info(shared_smoke: Store) -> RunInfo:
    return msgspec.structs.replace(shared_smoke.info(), evidence=True, data_source="counterfact and the authors' data")


# The second source overlaps itself: two publications give some rows, so each of its tables is judged alone.
TABLES = [
    tuple(cell for cell in CELLS.values() if cell.table == table)
    for table in dict.fromkeys(c.table for c in CELLS.values())
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0].table)
def test_every_value_decides_its_cell_and_no_other(table: tuple[PublishedCell, ...], info: RunInfo) -> None:
    right = {cell.id: cell.value for cell in table}

    def red(values: Values) -> list[str]:
        runs = {model: (info, rows) for model, rows in rows_at(table, values).items()}
        judged = [cell for row in judged_rows(table, runs) for cell in row.cells]
        assert {cell.state for cell in judged} <= {"reproduced", "outside tolerance"}
        return [cell.cell.id for cell in judged if cell.state == "outside tolerance"]

    assert red(right) == []
    for cell in table:
        assert red({**right, cell.id: shifted(cell)}) == [cell.id]
        inside = cell.tolerance.points - 0.01
        assert red({**right, cell.id: cell.value - min(inside, cell.value)}) == []


def test_shifted_cells_turn_the_exit_code_and_exactly_their_claims(shared_smoke: Store, info: RunInfo) -> None:
    right = {cell.id: cell.value for cell in EXPECTED.cells}

    def verdict(values: Values):
        runs = [
            MeasuredRun(shared_smoke, replaced(info, model), tuple(rows), TracedEffects({}))
            for model, rows in rows_at(EXPECTED.cells, values).items()
        ]
        return reach_verdict(EXPECTED, runs)

    assert (verdict(right).exit_code, verdict(right).counts["reproduced"]) == (0, 48)
    tables = {judged.claim.id: judged.status for judged in verdict(right).claims if judged.claim.cells}
    assert tables == dict.fromkeys(["T1", "T2", "T3"], "holds for gpt2-xl; holds for gpt-j")
    cell = "t1/gpt-j/memit/entity/reliability"
    found = verdict({**right, cell: 60.0})
    assert found.exit_code == 1
    assert [c.cell.id for c in found.cells if c.state == "outside tolerance"] == [cell]
    claims = {judged.claim.id: judged for judged in found.claims}
    assert claims["T1"].status == "holds for gpt2-xl; does not hold for gpt-j"
    assert (
        "gpt-j: MEMIT entity reliability 60.00, claimed 15 to 31 (tolerance 1.5): fails by 27.50 points"
        in claims["T1"].margin
    )
    assert claims["T2"].status == claims["T3"].status == "holds for gpt2-xl; holds for gpt-j"


@pytest.mark.parametrize("claim", [claim for claim in EXPECTED.claims if claim.cells], ids=lambda claim: claim.id)
def test_every_bound_and_order_of_a_claim_can_fail_it(claim, shared_smoke: Store, info: RunInfo) -> None:
    right = {cell.id: cell.value for cell in EXPECTED.cells}

    def holds(values: Values) -> bool:
        runs = {model: (info, rows) for model, rows in rows_at(EXPECTED.cells, values).items()}
        cells = {cell.cell.id: cell for row in judged_rows(EXPECTED.cells, runs) for cell in row.cells}
        measured = {
            model: MeasuredRun(shared_smoke, replaced(info, model), tuple(rows), TracedEffects({}))
            for model, (_, rows) in runs.items()
        }
        return "does not hold" not in judge_claim(claim, cells, measured).status

    assert holds(right)
    for bound in claim.bounds:
        for name in claim.cells:
            cell = CELLS[name]
            if (cell.edited, cell.perspective, cell.group) == (bound.edited, bound.perspective, bound.group):
                far = bound.low - cell.tolerance.points - 0.1
                assert not holds({**right, name: far})
                assert holds({**right, name: far + 0.2})
    for order in claim.orders:
        for name in claim.cells:
            cell = CELLS[name]
            if (cell.edited, cell.perspective, cell.group) == (order.higher, order.perspective, order.group):
                assert not holds({**right, name: 0.6})


def replaced(info: RunInfo, model: str) -> RunInfo:
    return msgspec.structs.replace(info, model=model)
