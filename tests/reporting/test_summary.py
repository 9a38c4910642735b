"""The page's first lines: what is established, what is not, what it would take, and never more than was judged."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from artifact.plans import PLANS
from artifact.plans.unit import edit_units
from artifact.reporting.about import facts_each
from artifact.reporting.baseline import MeasuredBefore
from artifact.reporting.expected import load_expected
from artifact.reporting.report import make_report, prefixes
from artifact.reporting.summary import FULL_NEEDS, SAMPLE_NEEDS, Summary, _ran, summarised
from artifact.reporting.verdict import measured_run, reach_verdict
from artifact.runs.describe import TracedData
from artifact.runs.store import Store

README = (Path(__file__).parents[2] / "README.md").read_text()
Build = Callable[..., Store]


def summary(*stores: Store, before: tuple[MeasuredBefore, ...] = ()) -> Summary:
    runs = [measured_run(store) for store in stores]
    return summarised(runs, reach_verdict(load_expected(), runs), before)


def words(lines: Any) -> str:
    return "\n".join(line.words for line in lines)


def test_the_embedded_world_is_a_pipeline_check_and_establishes_nothing_about_the_paper(smoke: Store) -> None:
    same = MeasuredBefore("a machine", 9, 9, 0.1, ())
    found = summary(smoke, before=(same, replace(same, same=8, others=("x",))))
    assert found.kind == "pipeline check (not evidence)"
    assert found.heading == "Pipeline check: every stage once, on a small model"
    said = words(found.established)
    assert "claim" not in said and "compared" not in said
    assert "computed on world: 44 edits with ROME, 44 traces and the unedited model on 24 facts" in said
    assert "8 cases failed or were excluded" in said
    assert "the installation works as ours did: 9 of 9" in said and "gave other numbers: 8 of 9" in said
    own = words(summary(smoke, before=(replace(same, itself=True),)).established)
    assert "this is our own run: later ones are compared with its 9 numbers, measured on a machine" in own
    assert "anything about the paper: none of its 48 published values was compared" in words(found.open)
    assert [line.command for line in found.takes] == ["kloc full", "kloc run sample", "kloc doctor --estimate full"]


def test_another_model_is_neither_a_pipeline_check_nor_a_reproduction(build: Build) -> None:
    found = summary(build(model="smollm2"))
    assert found.kind == "report on another model or other data" and not found.heading.startswith("Pipeline")
    assert "made up" not in words(found.open) and "anything about the paper" in words(found.open)


def test_a_run_that_is_not_finished_says_how_much_is_missing(build: Build) -> None:
    part, whole = build(model="smollm2", cases=20, planned=30), build(model="smollm2", cases=30, planned=30)
    units = len(part.info().plan.units)
    rest = f"the rest of the run on smollm2: {20 * units} of its {30 * units} cases are computed"
    assert rest in words(summary(part).open) and "the rest of the run" not in words(summary(whole).open)


def test_what_has_no_case_yet_is_counted_and_left_out(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "44 edits with ROME and EMMET", nor pages of rows without a number."""
    store = build(model="smollm2")
    info, new = store.info(), edit_units({"emmet": 8}, 24)
    more = msgspec.structs.replace(info.plan, units=(*info.plan.units, *new))
    monkeypatch.setattr(Store, "info", lambda self: msgspec.structs.replace(info, plan=more))
    run, found = measured_run(store), summary(store)
    assert "44 edits with ROME, 44 traces" in words(found.established)
    assert f"leave out 2 of its {len(more.units)} units, which have none yet" in words(found.open)
    assert {row.unit for row in run.rows} - {row.unit for row in run.begun} == {unit.name for unit in new}
    page = make_report([store], load_expected(), store.folder).files["report.md"].decode()
    assert "| ROME |" in page and "| EMMET |" not in page
    assert "| edit with EMMET, relation perspective | 24 | 0 | 0 | 0 |" in page


def test_a_run_of_the_paper_says_what_was_judged_and_what_was_not(build: Build, full_size: dict[str, Any]) -> None:
    found = summary(build(**full_size))
    assert found.kind == "reproduction report" and found.heading == "ROME from both perspectives"
    assert "of the paper's 48 values 8 were compared: 8 lie within their tolerance, 0 outside" in words(
        found.established
    )
    assert "claim T1" not in words(found.established)
    assert "claims F1, F2, F3, F4, T1, T2 and T3: not run" in words(found.open)
    assert "40 of the paper's 48 values" in words(found.open)
    part = summary(build(**{**full_size, "cases": 20, "planned": 30}))
    assert "8 were compared on a part of the facts, by their intervals: 8 meet the tolerance, 0 do not" in words(
        part.established
    )
    assert "intervals are judged" in words(part.open)


def test_a_judged_claim_is_established_and_an_undecided_one_is_open(build: Build, full_size: dict[str, Any]) -> None:
    runs = [measured_run(build(**full_size))]
    verdict = reach_verdict(load_expected(), runs)
    first, second, third, *rest = verdict.claims
    claims = (
        replace(first, status="does not hold for gpt2-xl", states=("does not hold",)),
        replace(second, status="undecided for gpt2-xl", states=("undecided",)),
        replace(third, status="holds for gpt2-xl; not run: needs gpt-j", states=("holds",)),
        *rest,
    )
    found = summarised(runs, replace(verdict, claims=claims), ())
    said, waiting = words(found.established), words(found.open)
    assert f"claim F1, {first.claim.sentence}: does not hold for gpt2-xl" in said
    assert "claim F3, " in said and "holds for gpt2-xl; not run: needs gpt-j" in said
    assert "claim F2: undecided" in waiting and "claim F2" not in said and "claim F1" not in waiting


@pytest.mark.parametrize(("plan", "needs"), [("full", FULL_NEEDS), ("run sample", SAMPLE_NEEDS)])
def test_what_it_takes_is_what_readme_says(plan: str, needs: str) -> None:
    (row,) = re.findall(rf"^\| .*\| `kloc {plan}` \|.*$", README, re.MULTILINE)
    time = re.search(r"about ([\d.]+) (hours|minutes)", needs)
    assert time and f"+ {time[1]} {'h' if time[2] == 'hours' else 'min'} |" in row
    for size in re.findall(r"(\d+) GB", needs):
        assert f"{size} GB" in (README if plan == "full" else row)


def test_a_plan_of_tasks_says_what_was_done(build: Build) -> None:
    """Not "no case yet" where every case is there."""
    (plan,) = PLANS["mechanism"]
    few = tuple(unit for unit in plan.units if unit.does == "knockout")
    run = build(plan=msgspec.structs.replace(plan, units=few), cases=0, planned=48)
    assert "computed on world: no case yet" in words(summary(run).established)
    counts = {unit.name: Counter(done=24) for unit in few}
    both = {unit.name: Counter(done=7) for unit in PLANS["both"][0].units}
    where = PLANS["where"][0].units
    sites = {unit.name: Counter(done=12 - 2 * i) for i, unit in enumerate(where)}  # four units of the same facts
    for units, counted, says in (
        (few, counts, "computed on world: 48 attention knockouts"),
        (PLANS["both"][0].units, both, "computed on world: “edit both perspectives, alone and together” on 7 facts"),
        (where, sites, "computed on world: “edit at every layer of a module, and trace it” on 12 facts;"),
    ):
        info = msgspec.structs.replace(run.info(), plan=msgspec.structs.replace(plan, units=units))
        store: Any = SimpleNamespace(counts=lambda counted=counted: counted)
        measured: Any = SimpleNamespace(info=info, store=store, reasons=[])
        assert _ran(measured).startswith(says)


def test_traces_of_other_data_are_no_part_of_the_list_of_facts(smoke: Store) -> None:
    info = smoke.info()
    each = [{"unit": unit.name, "planned": 24 if unit.does != "trace" else 9} for unit in info.plan.units]
    info = msgspec.structs.replace(info, cases=list(range(24)))
    other = TracedData("known facts", "another hash", "", list(range(9)))
    assert facts_each(each, msgspec.structs.replace(info, traced=None)) == ", of which each unit takes 9 to 24"
    assert facts_each(each, msgspec.structs.replace(info, traced=other)) == ""


def test_files_of_several_models_never_take_each_other_s_place() -> None:
    for models in (["/a/x", "/b/x", "x-2"], ["x", "y"], ["x-1", "/a/x", "/b/x"], ["m", "m"]):
        made = prefixes(models, False)
        assert len(set(made)) == len(models) and all(name.endswith("-") for name in made), made
