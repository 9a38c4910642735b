"""At the very edge: a value at the end of its tolerance is within it, intervals that touch are not disjoint."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from artifact.evaluation.metrics import Column
from artifact.reporting.expected import Claim, load_expected
from artifact.reporting.intervals import Estimate, bca
from artifact.reporting.tables import JudgedCell, judge
from artifact.reporting.verdict import judge_claim, measured_run
from artifact.runs.store import Store

EXPECTED = load_expected()
CELLS = [cell for cell in EXPECTED.cells if cell.edited and not cell.edit_applied]


def test_a_value_at_the_end_of_its_tolerance_is_reproduced(smoke: Store) -> None:
    run = measured_run(smoke)
    info = msgspec.structs.replace(run.info, evidence=True)
    tried = 0
    for cell in CELLS:
        points = cell.tolerance_with(info.relations_rebuilt).points
        for end, outwards in ((cell.value - points, -math.inf), (cell.value + points, math.inf)):
            if end / 100 * 100 != end:
                continue  # the fraction that is stored is not this very percentage
            for percent, state in ((end, "reproduced"), (math.nextafter(end, outwards), "outside tolerance")):
                mean = Estimate(percent, percent, percent, 7500)
                value = SimpleNamespace(mean=SimpleNamespace(scaled=lambda by, mean=mean: mean), change=None)
                values: Any = {("success", Column(cell.perspective, cell.group)): value}
                row = replace(run.rows[1], method=cell.method, edited=cell.edited, values=values, complete=True)
                assert judge(cell, info, [replace(row, skipped="", undone=False)]).state == state, cell.id
            tried += 1
    assert tried > 20


def held(claim: Claim, change: Callable[[JudgedCell], Estimate]) -> bool:
    """Whether a claim about GPT-2 XL holds with the cells' estimates changed."""
    cells = {}
    for cell in CELLS:
        percent = Estimate(cell.value, max(0.0, cell.value - 0.5), min(100.0, cell.value + 0.5), 7500)
        judged = JudgedCell(cell, cell.tolerance, percent, "reproduced", False, "")
        cells[cell.id] = replace(judged, measured=change(judged))
    status = judge_claim(claim, cells, {}).status
    assert "holds for gpt2-xl" in status or "not hold for gpt2-xl" in status
    return status.startswith("holds for gpt2-xl")


@pytest.mark.parametrize("away", [-1.0, 1.0])
def test_resamples_that_all_lie_on_one_side_have_no_interval(away: float) -> None:
    values_N = np.array([1.0, 2.0, 6.0])
    assert all(map(math.isnan, bca(values_N, np.full(99, values_N.mean() + away))))


@pytest.mark.parametrize(("low", "holds"), [(50.0, False), (math.nextafter(50, 51), True)])
def test_intervals_that_touch_overlap(low: float, holds: bool) -> None:
    claim = next(one for one in EXPECTED.claims if any(order.disjoint for order in one.orders))
    disjoint = next(order for order in claim.orders if order.disjoint)
    claim = msgspec.structs.replace(claim, orders=[disjoint], bounds=[])

    def change(judged: JudgedCell) -> Estimate:
        return Estimate(40, 30, 50, 9) if judged.cell.edited == disjoint.lower else Estimate(60, low, 70, 9)

    assert held(claim, change) is holds


@pytest.mark.parametrize(("beyond", "holds"), [(0, True), (1, False)])
def test_no_higher_within_the_tolerance_is_no_higher(beyond: int, holds: bool) -> None:
    claim = next(one for one in EXPECTED.claims if any(not order.disjoint for order in one.orders))
    order = next(order for order in claim.orders if not order.disjoint)
    claim = msgspec.structs.replace(claim, orders=[order], bounds=[])

    def change(judged: JudgedCell) -> Estimate:
        mean = 50.0 if judged.cell.edited == order.higher else 50.0 + judged.tolerance.points
        mean = math.nextafter(mean, 100) if beyond and judged.cell.edited == order.lower else mean
        return Estimate(mean, mean, mean, 9)

    assert held(claim, change) is holds


@pytest.mark.parametrize(("beyond", "holds"), [(0, True), (1, False)])
def test_a_value_at_the_end_of_a_claimed_range_is_within_it(beyond: int, holds: bool) -> None:
    claim = next(one for one in EXPECTED.claims if one.bounds)
    bound = claim.bounds[0]
    claim = msgspec.structs.replace(claim, bounds=[bound], orders=[])

    def change(judged: JudgedCell) -> Estimate:
        mean = bound.high + judged.tolerance.points
        mean = math.nextafter(mean, math.inf) if beyond else mean
        return Estimate(mean, mean, mean, 9)

    assert held(claim, change) is holds
