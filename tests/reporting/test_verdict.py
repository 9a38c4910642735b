"""Every published value is judged, and a shifted one turns exactly its cell red."""

from collections.abc import Callable
from dataclasses import replace
from statistics import harmonic_mean
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from artifact.evaluation.metrics import COLUMNS, UNTOUCHED, Column
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Unit
from artifact.reporting.expected import Expected, load_expected
from artifact.reporting.grids import gap_grid, overall_grid
from artifact.reporting.intervals import Estimate
from artifact.reporting.tables import RATES, JudgedCell, counted_reasons, judge, own_rows, undone
from artifact.reporting.verdict import judge_claim, measured_run, reach_verdict, verdict_json, verdict_of
from artifact.runs.store import Store

Build = Callable[..., Store]
Shares = dict[str, dict[tuple[str, str], float]]
SMOKE_UNITS = ("rome-entity", "rome-relation", "trace-hidden-entity", "trace-hidden-relation")


def test_every_cell_and_claim_is_in_the_verdict(smoke: Store) -> None:
    expected = load_expected()
    content = msgspec.json.decode(verdict_json(verdict_of(smoke)))
    assert [cell["id"] for cell in content["cells"]] == [cell.id for cell in expected.cells]
    assert [claim["id"] for claim in content["claims"]] == [claim.id for claim in expected.claims]
    assert [cell["id"] for cell in content["second_source"]] == [cell.id for cell in expected.second_source]
    assert content["counts"] == {"reproduced": 0, "outside tolerance": 0, "skipped": 0, "not run": 48}
    assert content["exit_code"] == 0
    assert {cell["status"] for cell in content["cells"]} == {"not run: needs gpt2-xl", "not run: needs gpt-j"}
    assert all(claim["status"].startswith("not run: needs gpt2-xl, gpt-j") for claim in content["claims"])


def test_a_run_without_evidence_is_never_compared(build: Build, full_size: dict[str, Any]) -> None:
    verdict = verdict_of(build(**{**full_size, "evidence": False}))
    assert verdict.counts["not run"] == 48 and verdict.exit_code == 0
    assert verdict.cells[0].status == "not run: needs gpt2-xl in a run that counts as evidence"


def test_the_papers_own_numbers_are_reproduced(build: Build, full_size: dict[str, Any]) -> None:
    verdict = verdict_of(build(**full_size))
    assert verdict.counts == {"reproduced": 8, "outside tolerance": 0, "skipped": 0, "not run": 40}
    assert verdict.exit_code == 0
    by_claim = {judged.claim.id: judged.status for judged in verdict.claims}
    assert by_claim["T1"] == "not run: needs gpt2-xl (FT, KN, MEND, MEMIT), gpt-j"
    assert by_claim["T3"] == "not run: needs gpt2-xl (MEMIT), gpt-j"
    second = [cell for row in verdict.second_source for cell in row.cells if cell.state != "not run"]
    assert {cell.cell.id.rsplit("/", 1)[0] for cell in second} == {
        "rome-t4/gpt2-xl/none/entity",
        "rome-t4/gpt2-xl/rome/entity",
    }
    assert {cell.state for cell in second} == {"reproduced"}


@pytest.mark.parametrize("unit", ["rome-entity", "rome-relation"])
@pytest.mark.parametrize(
    "column", [column for column in COLUMNS if column.group not in UNTOUCHED and not column.foil], ids=str
)
def test_a_shifted_cell_turns_red_alone(
    build: Build, full_size: dict[str, Any], shares: Shares, unit: str, column: Column
) -> None:
    key = (column.perspective, column.group)
    # Values near 100 have no room above.
    shares[unit][key] += 3 if shares[unit][key] < 95 else -3
    verdict = verdict_of(build(**full_size, shares=shares))
    table = "t2" if unit == "rome-entity" else "t1"
    red = [cell.cell.id for cell in verdict.cells if cell.state == "outside tolerance"]
    assert red == [f"{table}/gpt2-xl/rome/{column.perspective}/{column.group}"]
    assert verdict.exit_code == 1
    assert msgspec.json.decode(verdict_json(verdict))["exit_code"] == 1


def test_a_shift_of_the_second_source_decides_nothing(build: Build, full_size: dict[str, Any], shares: Shares) -> None:
    shares["unedited"]["entity", "specificity"] = 20.0
    verdict = verdict_of(build(**full_size, shares=shares))
    assert verdict.exit_code == 0
    assert "outside tolerance" in {cell.state for row in verdict.second_source for cell in row.cells}


@pytest.mark.parametrize(
    ("source", "reconstructed", "status"),
    [
        ("CounterFact", True, "reproduced (wide tolerance)"),
        ("the authors' data, checked against their templates", False, "outside tolerance"),
        # Runs of earlier versions say it in their data's source alone.
        ("CounterFact, relation prompts from templates", None, "reproduced (wide tolerance)"),
        ("the authors' data, checked against their templates", None, "outside tolerance"),
    ],
)
def test_rebuilt_relation_prompts_are_judged_widely_and_say_so(
    build: Build,
    full_size: dict[str, Any],
    shares: Shares,
    source: str,
    reconstructed: bool | None,
    status: str,
) -> None:
    shares["rome-relation"]["relation", "generality"] += 6
    verdict = verdict_of(build(**full_size, shares=shares, data_source=source, reconstructed=reconstructed))
    cell = next(cell for cell in verdict.cells if cell.cell.id == "t1/gpt2-xl/rome/relation/generality")
    assert cell.status == status


def test_part_of_the_facts_is_judged_by_its_interval(build: Build, full_size: dict[str, Any], shares: Shares) -> None:
    shares["rome-relation"]["entity", "reliability"] += 8
    few = {**full_size, "cases": 100, "limit": 100, "shares": shares}
    assert verdict_of(build(**few)).exit_code == 0
    cell = verdict_of(build(**few)).cells[12]
    assert (cell.cell.id, cell.status) == ("t1/gpt2-xl/rome/entity/reliability", "reproduced (partial)")
    shares["rome-relation"]["entity", "reliability"] += 20
    assert verdict_of(build(**few)).exit_code == 1


def test_failed_cases_are_named_in_the_status(build: Build, full_size: dict[str, Any]) -> None:
    verdict = verdict_of(build(**{**full_size, "odd_cases": True}))
    assert verdict.cells[12].status == "reproduced (1 failed)"


def as_measured(expected: Expected) -> dict[str, JudgedCell]:
    """Every cell measured at the paper's own value."""
    return {
        cell.id: JudgedCell(
            cell,
            cell.tolerance,
            Estimate(cell.value, max(0.0, cell.value - 0.5), min(100.0, cell.value + 0.5), 7500),
            "reproduced",
            False,
            "",
        )
        for cell in expected.cells
    }


def test_claims_of_the_tables_hold_at_the_papers_values(smoke: Store) -> None:
    expected = load_expected()
    cells = as_measured(expected)
    for claim in expected.claims:
        if not claim.kinds:
            assert judge_claim(claim, cells, {}).status == "holds for gpt2-xl; holds for gpt-j"


@pytest.mark.parametrize(
    ("claim", "cell", "value"),
    [
        ("T1", "t1/gpt2-xl/ft/entity/reliability", 60.0),
        ("T1", "t1/gpt2-xl/memit/relation/reliability", 80.0),
        ("T2", "t2/gpt2-xl/memit/relation/generality", 90.0),
        ("T2", "t2/gpt2-xl/rome/entity/reliability", 70.0),
        ("T3", "t1/gpt2-xl/rome/entity/reliability", 99.5),
        ("T3", "t2/gpt2-xl/rome/relation/generality", 95.0),
    ],
)
def test_a_claim_fails_with_its_cell(smoke: Store, claim: str, cell: str, value: float) -> None:
    expected = load_expected()
    cells = as_measured(expected)
    cells[cell] = replace(cells[cell], measured=Estimate(value, value - 0.5, value + 0.5, 7500))
    by_id = {one.id: one for one in expected.claims}
    assert judge_claim(by_id[claim], cells, {}).status == "does not hold for gpt2-xl; holds for gpt-j"


def test_a_claim_is_judged_for_the_model_that_ran(smoke: Store) -> None:
    expected = load_expected()
    cells = as_measured(expected)
    for name, cell in cells.items():
        partial = replace(cell, partial=True)
        cells[name] = partial if cell.cell.model == "gpt2-xl" else replace(cell, measured=None, state="not run")
    info = msgspec.structs.replace(smoke.info(), model="gpt2-xl", evidence=True)
    assert (
        judge_claim(expected.claims[4], cells, {"gpt2-xl": replace(measured_run(smoke), info=info)}).status
        == "holds for gpt2-xl (partial); not run: needs gpt-j"
    )


def test_rows_count_cases_and_pair_with_the_unedited_model(smoke: Store) -> None:
    unedited, relation, entity = own_rows(smoke)
    assert (unedited.method, unedited.edited, unedited.done) == ("none", None, 24)
    assert (entity.done, entity.failed, entity.excluded, entity.planned) == (22, 1, 1, 24)
    value = entity.values["success", Column("entity", "reliability")]
    assert value.mean.mean == 1.0 and value.change is not None and value.change.n == 22
    assert value.change.mean == pytest.approx(17 / 22)
    assert all(value.change is None for value in unedited.values.values())
    assert not any(column == Column("relation", "specificity") for _, column in relation.values)
    assert not entity.complete


def test_the_overall_score_is_the_harmonic_mean_of_five_rates(build, shares) -> None:
    """Another relation's foil and accuracy are no part of it, and a rate of zero makes it zero."""
    shares["rome-relation"]["entity", "generality"] = 0
    store = build(shares=shares, cases=40, odd_cases=False)
    unedited, relation, entity = own_rows(store)
    for row in (unedited, entity):
        rates = [row.values["success", column].mean.mean for column in RATES]
        assert len(rates) == 5 and row.overall.mean == pytest.approx(harmonic_mean(rates))
        assert row.overall.low <= row.overall.mean <= row.overall.high and row.overall.n == 40
    assert relation.overall.mean == 0
    grid = overall_grid([unedited, relation, entity])
    assert [str(line.cells[0].number) for line in grid.lines][1] == "0.0"
    assert overall_grid([]).lines == ()


def test_what_a_unit_corrects_is_not_undone() -> None:
    """KN's edit is undone before the scoring as released, but not in a unit that corrects just that."""
    unit = Unit("kn-entity", "edit", batch=8, method="kn", perspective="entity")
    info: Any = SimpleNamespace(switches={"kn_undone": True})
    for correct, taken_back in (((), True), (("kn_without_space",), True), (("kn_undone",), False)):
        assert undone(info, msgspec.structs.replace(unit, correct=correct)) is taken_back


def test_the_transfer_gap_is_the_edited_perspective_less_the_other(build: Build, shares: dict[str, Shares]) -> None:
    """Paired case by case; of the changes, what the unedited model said already does not count."""
    shares["unedited"] |= {("entity", "reliability"): 20.0, ("relation", "reliability"): 50.0}
    shares["rome-entity"] |= {("entity", "reliability"): 90.0, ("relation", "reliability"): 60.0}
    shares["rome-relation"] |= {("entity", "reliability"): 30.0, ("relation", "reliability"): 80.0}
    store = build(cases=40, odd_cases=False, shares=shares)
    unedited, relation, entity = own_rows(store)
    assert not unedited.gaps
    for row, gap, of_change in ((entity, 0.30, 0.60), (relation, 0.50, 0.20)):
        found = row.gaps["success", "reliability"]
        assert found.mean.mean == pytest.approx(gap) and found.mean.n == 40
        assert found.change is not None and found.change.mean == pytest.approx(of_change)
        assert found.mean.low < gap < found.mean.high
    grid = gap_grid("success", own_rows(store))
    assert [line[:2] for line in grid.rows] == [("relation edit", "ROME"), ("entity edit", "ROME")]
    assert str(grid.rows[1][2]).startswith("+30.0 [") and str(grid.rows[0][3]).startswith("+20.0 [")
    assert str(grid.rows[0][-1]) == "40"


def test_an_edit_that_was_undone_has_no_gap(build: Build, shares: dict[str, Shares], monkeypatch) -> None:
    """Its numbers are the unedited model's: a gap of changes of zero would read as an edit that carries over whole."""
    monkeypatch.setattr("artifact.reporting.tables.undone", lambda info, unit: unit.perspective == "entity")
    _, relation, entity = own_rows(build(shares=shares))
    assert entity.undone and entity.values and not entity.gaps and relation.gaps
    grid = gap_grid("success", [relation, entity])
    assert [line[:2] for line in grid.rows] == [("relation edit", "ROME")]


def test_a_perspective_without_prompts_has_no_gap(build: Build, shares: dict[str, Shares]) -> None:
    for unit in shares.values():
        del unit["relation", "generality"]
    _, relation, entity = own_rows(build(shares=shares))
    assert ("success", "generality") not in entity.gaps and ("success", "reliability") in relation.gaps


def test_reasons_are_counted_without_case_numbers(smoke: Store) -> None:
    excluded, failed = counted_reasons(smoke)
    assert (failed.status, failed.text) == ("failed", "the value's loss is <nan> & 100% lost")
    assert (failed.count, failed.first_cases) == (len(SMOKE_UNITS), (5,))
    assert failed.units == {name: 1 for name in SMOKE_UNITS}
    assert (excluded.status, excluded.count, excluded.first_cases) == ("excluded", len(SMOKE_UNITS), (11,))


def test_kn_scored_with_its_edit_is_not_held_against_an_undone_row(build: Build, full_size: dict[str, Any]) -> None:
    """The second sources' KN rows are edited models; the paper's own row is not, and is compared."""
    store = build(**full_size)
    row = next(row for row in own_rows(store) if row.unit == "rome-entity")
    second = [cell for cell in load_expected().second_source if cell.method == "kn" and cell.perspective == "entity"]
    paper = next(cell for cell in load_expected().cells if cell.method == "kn" and cell.perspective == "entity")
    assert len(second) == 5 and all(cell.edit_applied for cell in second) and not paper.edit_applied
    for taken_back in (True, False):
        judged = [judge(cell, store.info(), [replace(row, method="kn", undone=taken_back)]) for cell in second]
        assert {one.state for one in judged} == ({"not run"} if taken_back else {"outside tolerance"})
        if taken_back:
            assert all("or --correct kn_undone" in one.status for one in judged)
        kn = replace(row, method="kn", edited="relation", undone=taken_back)
        assert judge(paper, store.info(), [kn]).state == "outside tolerance"


def test_the_verdict_names_another_protocol(build: Build, full_size: dict[str, Any]) -> None:
    verdict = verdict_of(build(**full_size))
    assert "Protocol" not in verdict.sentence
    one = msgspec.structs.replace(verdict.infos[0], switches={"tf32": False})
    assert replace(verdict, infos=(one,)).sentence.endswith(" Protocol: released, but for tf32 (corrected).")
    every = msgspec.structs.replace(verdict.infos[0], protocol="corrected")
    assert replace(verdict, infos=(every,)).sentence.endswith(" Protocol: corrected.")


def test_traces_of_the_paper_s_model_alone_are_no_published_value(build: Build, full_size: dict[str, Any]) -> None:
    """All published values are of edits; the sentence asks for no model that was run, and says the protocol."""
    plan = msgspec.structs.replace(SMOKE, units=tuple(unit for unit in SMOKE.units if unit.does == "trace"))
    run = measured_run(build(**(full_size | {"plan": plan})))
    said = "no published value was compared: all 48 are of edits, and none was run."
    assert reach_verdict(load_expected(), [run]).sentence == said
    corrected = replace(run, info=msgspec.structs.replace(run.info, protocol="corrected"))
    assert reach_verdict(load_expected(), [corrected]).sentence.startswith(f"{said} Protocol: corrected")
