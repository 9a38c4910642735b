"""What a model without published values says of the claims: each state from numbers that leave no other, in words."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from artifact.cli import call
from artifact.reporting.elsewhere import Answer, claims_elsewhere
from artifact.reporting.expected import load_expected
from artifact.reporting.report import render
from artifact.reporting.verdict import MeasuredRun, measured_run, missing_traces
from artifact.runs.store import Store

CLAIMS = load_expected().claims
Answers = Callable[..., dict[str, Answer]]


@pytest.fixture
def answers(build: Callable[..., Any], full_size: dict[str, Any], shares: dict[str, Any]) -> Answers:
    """The answers of a run of ROME on another model, by claim, from `shares` as a test has changed them."""

    def asked(undone: bool = False, **changes: Any) -> dict[str, Answer]:
        like = full_size | {"model": "smollm2", "evidence": False, "cases": 400, "shares": shares}
        run = measured_run(build(**(like | changes)))
        if undone:
            run = replace(run, rows=tuple(replace(row, undone=row.edited is not None) for row in run.rows))
        return {one.claim.id: one for one in claims_elsewhere(CLAIMS, run)}

    return asked


def test_the_paper_s_numbers_hold_on_another_model_and_missing_traces_are_named(answers, shares) -> None:
    shares["rome-relation"] |= {("relation", "reliability"): 97.0, ("entity", "reliability"): 23.0}
    shares["rome-entity"]["entity", "reliability"] = 97.0
    shares["rome-entity"]["relation", "reliability"] = 94.5
    shares["rome-entity"]["relation", "generality"] = 75.0
    found = answers()
    assert list(found) == [claim.id for claim in CLAIMS]
    assert found["T1"].status == "holds on smollm2" and found["T3"].status == "holds on smollm2"
    interval = r"97\.0 \[9\d\.\d, 9\d\.\d\]"
    words = rf"T1 holds on smollm2 \(ROME: relation reliability {interval} after relation edits, "
    assert re.fullmatch(rf"{words}claimed 91 to 100: 3\.0 points inside\)", found["T1"].sentence)
    # The range of two points that T2 names is narrower than the interval of these facts.
    assert found["T2"].status == "undecided on smollm2" and "relation generality 75.0" in found["T2"].figures
    assert found["F1"].status == "not run" and found["F1"].figures == "needs traces of mlp"


def test_traces_whose_facts_were_all_left_out_are_told_from_traces_that_were_not_run(build: Any) -> None:
    """A model that answers no fact, as one of random weights, was traced all the same."""
    run = measured_run(build(model="smollm2", evidence=False))
    out = {unit.name: Counter(excluded=24) for unit in run.info.plan.units}
    lost: Any = replace(run, traced=replace(run.traced, traces={}), store=SimpleNamespace(counts=lambda: out))
    both = 2 * 24  # of either perspective
    (first,) = claims_elsewhere(CLAIMS[1:2], lost)
    assert first.figures == f"needs traces of hidden; {both} were excluded or failed"
    assert missing_traces(CLAIMS[1], replace(lost, store=SimpleNamespace(counts=dict))) == "traces of hidden"


def test_each_claim_fails_on_the_number_that_is_furthest_from_it(answers, shares) -> None:
    shares["rome-relation"]["entity", "reliability"] = 80.0
    shares["rome-entity"]["entity", "reliability"] = 60.0
    found = answers()
    assert found["T1"].state == "does not hold"
    assert "entity reliability 80.0" in found["T1"].figures and "49.0 points outside" in found["T1"].figures
    assert found["T2"].state == "does not hold" and "entity reliability 60.0" in found["T2"].figures
    assert found["T3"].state == "does not hold"
    assert "entity reliability after entity minus after relation edits -20.0 points [" in found["T3"].figures


def test_an_interval_that_holds_both_sides_leaves_it_undecided(answers, shares) -> None:
    shares["rome-relation"]["entity", "reliability"] = 30.0
    shares["rome-entity"]["entity", "reliability"] = 35.0
    found = answers(cases=60)
    assert found["T3"].state == "undecided" and "n = 60" in found["T3"].figures
    assert found["T1"].state == "undecided"


def test_a_handful_of_facts_decides_nothing(answers, shares) -> None:
    shares["rome-relation"]["entity", "reliability"] = 100.0
    few = answers(cases=9)
    assert {few[name].state for name in ("T1", "T2", "T3")} == {"undecided"}
    assert all(few[name].figures.endswith("; fewer than 10 facts decide nothing") for name in ("T1", "T2", "T3"))
    assert answers(cases=10)["T1"].state == "does not hold"


@pytest.mark.parametrize(
    "changes", [{"model": "world"}, {"model": "gpt2-xl", "evidence": True}, {"model": "gpt2-xl"}], ids=str
)
def test_the_world_and_the_paper_s_models_have_no_such_answers(changes, answers) -> None:
    assert answers(cases=40, **changes) == {}


def test_a_row_whose_edit_was_taken_back_says_nothing(answers) -> None:
    found = answers(undone=True, cases=40)
    assert {found[name].state for name in ("T1", "T2", "T3")} == {"not run"}
    assert found["T1"].status == "not run"
    assert [found[name].figures.partition(" edits,")[0] for name in ("T1", "T2", "T3")] == [
        "needs relation", "needs entity", "needs entity and relation",
    ]  # fmt: skip


def test_a_claim_holds_only_where_each_of_its_conditions_was_measured(answers, shares, monkeypatch) -> None:
    """As of facts without relation fields; one that fails decides all the same."""
    shares["rome-entity"]["entity", "reliability"] = 97.0
    whole = measured_run

    def of_entities(store: Store) -> MeasuredRun:
        run = whole(store)
        kept = [
            replace(row, values={key: one for key, one in row.values.items() if key[1].perspective == "entity"})
            for row in run.rows
        ]
        return replace(run, rows=tuple(kept))

    monkeypatch.setitem(globals(), "measured_run", of_entities)
    found = answers()
    assert found["T2"].state == found["T3"].state == "not run"
    assert found["T2"].figures == "needs relation reliability and relation generality of edited models"
    shares["rome-entity"]["entity", "reliability"] = 60.0
    assert answers()["T2"].state == "does not hold"


def test_the_page_its_files_and_the_commands_say_it_first(build, full_size, capsys) -> None:
    store = build(**(full_size | {"model": "smollm2", "evidence": False, "cases": 40}))
    page, report = render(store)
    html, text = page.read_text(), page.with_name("report.md").read_text()
    assert html.index("The paper’s claims on smollm2") < html.index('<h2 id="claims">')
    assert all(line in text for line in report.elsewhere) and len(report.elsewhere) == len(CLAIMS)
    written = json.loads(page.with_name("verdict.json").read_text())["elsewhere"]
    assert [one["id"] for one in written] == [claim.id for claim in CLAIMS]
    assert call(["verify", str(store.folder)]) == 0
    assert report.elsewhere[-1] in capsys.readouterr().out
    page, report = render(build(**(full_size | {"cases": 40})))
    assert report.elsewhere == () and "elsewhere" not in json.loads(page.with_name("verdict.json").read_text())
    assert "’s claims on " not in page.read_text()
