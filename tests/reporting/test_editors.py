"""The table of editors: what each changes and where, and the claims asked of each method's own edits."""

from typing import Any

import pytest

from artifact.editing.hparams import told
from artifact.editing.methods import METHODS
from artifact.plans.unit import Plan, Unit
from artifact.reporting.cells import Cell
from artifact.reporting.editors import edited_place, editors_grids
from artifact.reporting.elsewhere import claims_elsewhere
from artifact.reporting.expected import load_expected
from artifact.reporting.findings.modern import measured
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
    shares["rrome-relation"] = shares["rome-relation"] | {("entity", "reliability"): 90.0}
    plan = Plan("modern", "a test", UNITS)
    return build(plan=plan, model="smollm2", evidence=False, cases=400, odd_cases=False, shares=shares)


def test_the_claims_of_the_paper_are_asked_of_its_methods_and_in_the_table_of_each(store: Any) -> None:
    found = {one.claim.id: one for one in claims_elsewhere(CLAIMS, measured_run(store))}
    assert found["T1"].state == "holds" and "ROME:" in found["T1"].figures, "R-ROME is no method of the paper"
    (grid,) = editors_grids(store, own_rows(store))
    lines = {line.heads[1]: dict(zip(grid.columns, line.cells, strict=True)) for line in grid.lines}
    assert list(lines) == ["ROME", "R-ROME"]
    assert (lines["ROME"]["T1"], lines["R-ROME"]["T1"]) == ("holds", "does not hold")
    assert lines["ROME"]["T3"] == "holds"
    gap = lines["R-ROME"]["gap, relation edit"]
    # It raises the entity's success from 22.2 to 90 and the relation's not at all.
    assert isinstance(gap, Cell) and gap.mean == pytest.approx(0.22 - 0.9, abs=0.005)
    assert grid.lines[0].heads == ("weights", "ROME", "layer 1"), "a run that does not say its token"
    findings = measured(store)
    assert findings is not None and [one.name for one in findings.grids] == ["editors"]


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
