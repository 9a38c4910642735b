"""Many facts in one model: records are what the curve gives, they are computed together, and the page shows them."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import take_few_steps

from artifact.cli import call
from artifact.errors import EditError
from artifact.evaluation.metrics import VALUES, Column
from artifact.evaluation.score import score_cases
from artifact.evaluation.sequence import curve
from artifact.facts.fact import PERSPECTIVES
from artifact.plans import PLANS, narrowed, sequence
from artifact.plans.unit import CONTROLS, Plan
from artifact.reporting.findings import findings_of
from artifact.reporting.sequences import UNEDITED, _written, sequence_grids, written_of
from artifact.runs.context import Context
from artifact.runs.inputs import Given
from artifact.runs.local import compute
from artifact.runs.resolve import Asked, prepare
from artifact.runs.scored import numbers_of
from artifact.runs.store import Store, reading

REFERENCE = Path(__file__).parent.parent / "reference"
MODEL, FACTS = str(REFERENCE / "models" / "tiny-gpt2"), REFERENCE / "facts.json"
UNITS = {unit.name: unit for unit in sequence.units((1, 3), ("rome", "alphaedit"))}
AT = VALUES.index(("success", Column("entity", "reliability")))


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        take_few_steps(patch)
        yield


@pytest.fixture(scope="module")
def context() -> Context:
    plan = Plan("sequence", "many edits", tuple(UNITS.values()))
    return prepare(plan, Asked(MODEL, given=Given(facts=str(FACTS))), lambda line: None)[0]


@pytest.mark.parametrize("name", UNITS)
def test_records_hold_every_point_of_their_fact(name: str, context: Context) -> None:
    unit, facts = UNITS[name], context.inputs.edited.facts[:3]
    assert unit.batch == unit.most == 3
    records = compute(unit, facts, context)
    points = curve(context.editor(unit.method), facts, unit.perspective, [1, 3], context.memory)
    assert [record.status for record in records] == ["done"] * 3
    for place, record in enumerate(records):
        told, own = record.payload["points"], [point for point in points if place < point.facts]
        assert {one["way"] for one in told} == ({"sequence", "batch"} if unit.method == "alphaedit" else {"sequence"})
        assert [(one["facts"], one["way"]) for one in told] == [(point.facts, point.way) for point in own]
        for one, point in zip(told, own, strict=True):
            np.testing.assert_allclose(one["values"], numbers_of(point.scores[place]), rtol=0, atol=1e-5)
            assert set(one["further"]) == {"generation", "removal"} and "failed" not in one
    for fact, score, record in zip(facts, score_cases(context.model, facts), records, strict=True):
        before = record.payload["before"]
        np.testing.assert_allclose(before["values"], numbers_of(score), rtol=0, atol=1e-5)
        assert before["further"]["generation"]["relation"]["target"] == fact.relation


def test_a_fact_that_cannot_stand_beside_another_is_left_out(context: Context) -> None:
    unit, (first, second, *_) = UNITS["sequence-rome-relation"], context.inputs.edited.facts
    twin = replace(first, case_id=1000, relation="another relation")
    without = replace(second, case_id=1001, relation=None)
    records = compute(unit, [first, twin, without, second], context)
    assert [record.status for record in records] == ["done", "excluded", "excluded", "done"]
    assert "case 0 and case 1000 want" in records[1].reason and "relation.strs" in records[2].reason
    assert [one["facts"] for one in records[3].payload["points"]] == [2]  # where there are fewer, all of them


def test_facts_are_computed_together_or_not_at_all(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, facts = UNITS["sequence-alphaedit-entity"], context.inputs.edited.facts[:3]
    asked: list[int] = []

    def fails(error: Exception) -> Any:
        def computes(unit: Any, facts: Any, context: Any) -> Any:
            asked.append(len(facts))
            raise error

        return computes

    monkeypatch.setattr("artifact.runs.tasks.sequence.compute", fails(EditError("no edit, give another")))
    records = compute(unit, facts, context)
    assert {(record.status, record.reason) for record in records} == {("failed", "no edit, give another")}
    monkeypatch.setattr("artifact.runs.tasks.sequence.compute", fails(torch.OutOfMemoryError("full")))
    records = compute(unit, facts, context)
    assert [record.status for record in records] == ["undone"] * 3 and asked == [3, 3]
    assert records[1].reason == f"case {facts[1].case_id}: does not fit the device's memory; take a larger device"


def test_an_edit_that_fails_is_counted_in_its_point(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, facts = UNITS["sequence-rome-entity"], context.inputs.edited.facts[:2]
    editor = context.editor("rome")
    idle = replace(editor, hparams=msgspec.structs.replace(editor.hparams, v_num_grad_steps=1))
    monkeypatch.setitem(context._editors, ("rome", ()), idle)
    records = compute(unit, facts, context)
    assert all("no step was taken" in point["failed"] for record in records for point in record.payload["points"])


def test_a_model_that_its_edits_have_broken_loses_no_earlier_point(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its facts failed at that point, and the points before it keep their numbers, in records and table."""
    whole = score_cases

    def broken(model: Any, facts: Any, **more: Any) -> Any:
        if len(facts) > 1:
            raise EditError("case 0: the loss of a text under the model is nan, not finite")
        return whole(model, facts, **more)

    monkeypatch.setattr("artifact.evaluation.sequence.score_cases", broken)
    records = compute(UNITS["sequence-rome-entity"], context.inputs.edited.facts[:3], context)
    (first, last), *others = [record.payload["points"] for record in records]
    assert "values" in first and first["facts"] == 1
    for point in (last, *(point for (point,) in others)):
        assert "values" not in point
        assert point["failed"].startswith("on the model that carries 3 edits: case 0: the loss")
    payloads = {record.case_id: record.payload for record in records}
    shown = _written("ROME", "entity", payloads, {})
    assert shown.scored[3, "sequence"] == 0 and shown.failed[3, "sequence"] == 3 and shown.scored[1, "sequence"] == 1
    assert [len(grid.lines) for grid in sequence_grids([shown])] == [3, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The plan's MEMIT alone: its edits, its controls and its curves."""
    out = tmp_path_factory.mktemp("modern") / "run"
    asked = ["--model", MODEL, "--facts", str(FACTS), "--limit", "3", "--methods", "memit", "--out", str(out)]
    assert call(["run", "modern", *asked]) == 0
    with reading(out) as store:
        yield store


def test_the_run_has_memits_controls_and_curves(run: Store) -> None:
    names = [unit.name for unit in run.info().plan.units]
    edits = [f"memit-{side}{control}" for control in ("", *(f"-{one}" for one in CONTROLS)) for side in PERSPECTIVES]
    assert sorted(names) == sorted(["unedited", *edits, *(f"sequence-memit-{side}" for side in PERSPECTIVES)])
    assert {record.status for unit in run.info().plan.units for record in run.records(unit)} == {"done"}
    page = (run.folder / "report" / "report.html").read_text(encoding="utf-8")
    for words in ("MEMIT, another layer", "MEMIT, random direction", "MEMIT, another subject"):
        assert words in page
    assert "Success after many edits in one model" in page
    for of in ("success", "removal and generation"):
        assert f"Many edits in one model: {of} in numbers" in page


def test_the_table_and_the_figure_are_the_records(run: Store) -> None:
    found = findings_of(run)["modern"]
    gaps, chart = found.charts
    assert gaps.name == "transfer-gap"
    assert [panel.title for panel in chart.panels] == ["MEMIT, entity edit", "MEMIT, relation edit"]
    assert (chart.places, chart.across, chart.side_by_side) == ((1, 3), "facts written", 2)
    (grid,) = [grid for grid in found.grids if grid.name == "sequence"]
    assert [line.heads[2:] for line in grid.lines[:5]] == [
        ("0", "unedited"),
        ("1", "one after the other"),
        ("1", "as one batch"),
        ("3", "one after the other"),
        ("3", "as one batch"),
    ]
    units = {unit.perspective: unit for unit in run.info().plan.units if unit.task}
    for one in written_of(run):
        payloads = [record.payload for record in run.records(units[one.edited])]
        for key in one.scored:
            own = [_point(p, key)["values"] for p in payloads if _has(p, key)]
            measured = one.found[key, "entity reliability"]
            assert measured.mean == pytest.approx(np.mean([values[AT] for values in own])) and measured.n == len(own)
            assert (one.scored[key], one.failed[key]) == (len(own), 0)
            gone = [_point(p, key)["further"]["removal"]["removed"] for p in payloads if _has(p, key)]
            assert one.found[key, "removal"].mean == pytest.approx(np.mean(gone))
    tested = {(one.of, one.name): one.estimate for one in found.tests}
    for one in written_of(run):
        payloads = [record.payload for record in run.records(units[one.edited])]
        changes = [_point(p, (3, "batch"))["values"][AT] - p["before"]["values"][AT] for p in payloads]
        estimate = tested[f"MEMIT, {one.edited} edit, 3 facts, as one batch", "entity reliability"]
        assert estimate.mean == pytest.approx(np.mean(changes)) and estimate.n == 3
    rows = list(csv.DictReader(io.StringIO((run.folder / "report" / "figures" / "sequence.csv").read_text())))
    assert {row["facts written"] for row in rows} == {"1", "3"} and len(rows) == 2 * 5 * 2
    assert (run.folder / "report" / "tables" / "sequence.csv").is_file()


def _point(payload: Any, key: tuple[int, str]) -> Any:
    return (
        payload["before"]
        if key == UNEDITED
        else next(one for one in payload["points"] if (one["facts"], one["way"]) == key)
    )


def _has(payload: Any, key: tuple[int, str]) -> bool:
    return key == UNEDITED or payload["place"] < key[0]


def test_plans_hold_curves_of_both_perspectives() -> None:
    for name in ("modern", "beyond"):
        (plan,) = PLANS[name]
        units = [unit for unit in plan.units if unit.task == "sequence"]
        assert {unit.perspective for unit in units} == set(PERSPECTIVES) and units
        assert all(sequence.sizes_of(unit, unit.most)[-1] == unit.most == unit.batch for unit in units)
    kept = narrowed(PLANS["modern"][0], [], ["alphaedit"]).units
    assert {unit.method for unit in kept} == {"none", "alphaedit"} and any(unit.task for unit in kept)
    assert sequence.sizes_of(units[0], 7) == [1, 5, 7] and sequence.sizes_of(units[0], 1) == [1]
