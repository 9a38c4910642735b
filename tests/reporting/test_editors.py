"""The table of editors: what each changes and where, and the claims asked of each method's own edits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from artifact.editing.hparams import told
from artifact.editing.methods import METHODS
from artifact.evaluation.metrics import Column
from artifact.plans.unit import Plan, Unit
from artifact.reporting import tables
from artifact.reporting.cells import Cell
from artifact.reporting.editors import edited_place, editors_grids, gap_charts, transfer_gaps
from artifact.reporting.elsewhere import claims_elsewhere
from artifact.reporting.expected import load_expected
from artifact.reporting.findings.modern import measured
from artifact.reporting.intervals import Series
from artifact.reporting.questions import load_questions
from artifact.reporting.tables import own_rows
from artifact.reporting.verdict import measured_run

CLAIMS = load_expected().claims
UNITS = (
    Unit("unedited", "unedited", batch=8, further=True),
    *(
        Unit(f"{method}-{perspective}", "edit", batch=8, method=method, perspective=perspective, further=True)
        for method in ("rome", "rrome")
        for perspective in ("entity", "relation")
    ),
)


@pytest.fixture
def store(build: Any, shares: dict[str, Any]) -> Any:
    """ROME with the paper's numbers, and a method after the paper whose relation edits reach the entity."""
    shares["rome-relation"] |= {("relation", "reliability"): 97.0, ("entity", "reliability"): 23.0}
    shares["rrome-entity"] = shares["rome-entity"]
    shares["rrome-relation"] = shares["rome-relation"] | {("entity", "reliability"): 99.5}
    plan = Plan("modern", "a test", UNITS)
    return build(plan=plan, model="smollm2", evidence=False, cases=400, odd_cases=False, shares=shares)


def test_the_claims_are_those_of_the_paper_s_methods_and_each_editor_is_asked_for_the_direction(store: Any) -> None:
    found = {one.claim.id: one for one in claims_elsewhere(CLAIMS, measured_run(store))}
    assert found["T1"].state == "holds" and "ROME:" in found["T1"].figures, "R-ROME is not in the paper"
    rows = own_rows(store)
    gaps = transfer_gaps(store, rows)
    (grid,) = editors_grids(store, rows, gaps)
    lines = {line.heads[1]: dict(zip(grid.columns, line.cells, strict=True)) for line in grid.lines}
    assert list(lines) == ["ROME", "R-ROME"]
    assert (lines["ROME"]["T1"], lines["R-ROME"]["T1"]) == ("holds", "does not hold")
    assert lines["ROME"]["T3"] == lines["ROME"]["T2"] == "holds"
    gap = lines["R-ROME"]["gap, relation edit"]
    # It raises the entity's success from 22.2 to 99.5. Against another relation the relation's is two thirds of 97.
    assert isinstance(gap, Cell) and gap.mean == pytest.approx(0.22 - 0.995, abs=0.01)
    assert grid.lines[0].heads == ("weights", "ROME", "layer 1"), "a run that does not say its token"
    findings = measured(store)
    assert findings is not None and [one.name for one in findings.grids] == ["editors"]
    name = "transfer gap against another relation, relation edit, R-ROME"
    assert findings.quantities[name].estimate == gaps["reliability"]["rrome-relation"]
    (chart,) = findings.charts
    assert findings.figure == chart.name and [panel.group for panel in chart.panels] == [*gaps]
    for panel in chart.panels:
        drawn = {(mark.method, mark.edited): mark.measured for mark in panel.marks}
        assert drawn == {(row.printed_method, row.edited): gaps[panel.group][row.unit] for row in rows if row.edited}
    asked = {one.quantity for question in load_questions() if question.id == "E" for one in question.conditions}
    assert {
        name.replace("R-ROME", method) for method in ("R-ROME", "EMMET", "AlphaEdit", "PMET", "RETS", "IKE")
    } <= asked


def test_edits_that_were_undone_before_the_scoring_have_no_gap(store: Any) -> None:
    """Their numbers are the unedited model's; a gap of zero would read as an edit that carries over whole."""
    rows = [replace(row, undone=row.edited is not None) for row in own_rows(store)]
    gaps = transfer_gaps(store, rows)
    assert {gap for of_units in gaps.values() for gap in of_units.values()} == {None}
    (grid,) = editors_grids(store, rows, gaps)
    assert [line.heads[1] for line in grid.lines] == ["ROME, undone", "R-ROME, undone"]
    assert all(set(line.cells[:3]) == {"edit undone"} and line.cells[3].mean is None for line in grid.lines)
    assert not gap_charts("smollm2", rows, gaps)


def test_a_handful_of_facts_decides_nothing(build: Any, shares: dict[str, Any]) -> None:
    shares["rrome-entity"], shares["rrome-relation"] = shares["rome-entity"], shares["rome-relation"]
    few = build(plan=Plan("modern", "a test", UNITS), model="smollm2", cases=4, odd_cases=False, shares=shares)
    rows = own_rows(few)
    (grid,) = editors_grids(few, rows, transfer_gaps(few, rows))
    assert {state for line in grid.lines for state in line.cells[:3]} == {"undecided"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_changes_and_where(method: str) -> None:
    hparams = told(METHODS[method].scaled(12))
    changes, where = edited_place(method, {"hparams": hparams})
    assert changes == ("context" if method == "ike" else "weights")
    assert len(where) > len("layer 1"), "a place in words, not the layers alone"
    if "layers" in hparams:
        assert where.endswith(", ".join(map(str, hparams["layers"])))


def test_the_place_is_that_of_the_run_s_hyperparameters() -> None:
    pmet = told(METHODS["pmet"].scaled(12)) | {"modules": ["attn", "mlp"], "layers": [3, 4]}
    assert edited_place("pmet", {"hparams": pmet})[1] == "attention and MLP, the subject's last token, layers 3, 4"
    rome = told(METHODS["rome"].scaled(12)) | {"site": "attn", "fact_token": "last", "layers": [7]}
    assert edited_place("rome", {"hparams": rome})[1] == "attention, the prompt's last token, layer 7"
    assert edited_place("a method of another version", {}) == ("", "")


@pytest.mark.parametrize(
    "odd", [{"layers": 1}, {"layers": ["1"]}, {"fact_token": []}, {"site": "head"}, {"modules": [[]]}], ids=str
)
def test_hyperparameters_in_other_words_name_no_place(odd: dict[str, Any]) -> None:
    """A new method's own, or damaged ones: found as a page's TypeError."""
    assert edited_place("rome", {"hparams": told(METHODS["rome"].scaled(12)) | odd}) == ("weights", "")


def test_a_magnitude_is_no_share_even_where_every_one_is_whole(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wilson's interval is of successes counted; differences of probabilities that are all 1 give no interval."""
    read = tables.scored_cases

    def whole(*given: Any) -> Any:
        ones = {key: Series(one.cases_N, np.ones(len(one.values_N))) for key, one in read(*given).items()}
        return ones

    monkeypatch.setattr(tables, "scored_cases", whole)
    row = next(row for row in own_rows(store) if row.edited == "entity")
    column = Column("entity", "reliability")
    success, magnitude = (row.values[metric, column].mean for metric in ("success", "magnitude"))
    assert success is not None and success.low < 1.0 == success.high
    assert magnitude is not None and (magnitude.low, magnitude.high) == (1.0, 1.0)
