"""A simulated run of the multiverse with a known effect and a known confounding choice gives the right curves."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifact.editing.methods import METHODS
from artifact.facts.fact import PERSPECTIVES
from artifact.plans import narrowed
from artifact.plans.multiverse import BEYOND, MULTIVERSE, own_window
from artifact.plans.unit import Unit
from artifact.reporting.expected import load_expected
from artifact.reporting.findings.edit_multiverse import MIXED, Edits, case_numbers, edit_specifications
from artifact.reporting.findings.multiverse import _Records, measured
from artifact.tracing.averages import roles, trace_numbers
from artifact.tracing.choices import METRICS, choices

LAYERS, FACTS = 6, 12
TRACED = tuple(unit for unit in BEYOND if unit.does == "task")


def simulated(model: str = "world") -> Any:
    """Effects in probability at the last token's last layers alone: F1 holds, but not under replacement."""
    draw = np.random.default_rng(1)
    records: dict[str, list[Any]] = {}
    for unit in TRACED:
        names = roles(unit.perspective)
        for case in range(FACTS):
            traces = {}
            for choice in choices(unit.trace_kind, unit.perspective, LAYERS, own_window(model, LAYERS)):
                effects_RL = 0.01 * draw.normal(size=(len(names), LAYERS))
                reached = 0.1 if choice.corruption == "replacement" else 0.7
                effects_RL[names.index("last token"), 4:] += reached + 0.05 * draw.normal()
                row = [1.0, 0.2, 0.0, *[1.0] * len(names), *effects_RL.ravel()]
                traces[choice.key] = [row for _ in METRICS]
            without = (
                {"no donor: none": 4, f"case {case}: the prompt 'p{case}' has no token; give another": 2}
                if case < 3
                else {}
            )
            payload = {"layers": LAYERS, "traces": traces, "without": without}
            records.setdefault(unit.name, []).append(SimpleNamespace(case_id=case, status="done", payload=payload))
    plan = SimpleNamespace(units=TRACED)
    info = SimpleNamespace(layers=LAYERS, model=model, plan=plan, relations={}, switches={})
    return SimpleNamespace(info=lambda: info, records=lambda unit: records[unit.name])


def test_a_simulated_store_gives_the_right_curve_share_and_choice() -> None:
    found = measured(simulated())
    curves = {curve.finding: curve for curve in found.charts}
    assert set(curves) == {"F1", "F2", "F3", "F4"}
    one = curves["F1"]
    # Five corruptions, three spans, one window on six layers, two directions, three metrics in two forms.
    assert len(one.entries) == 5 * 3 * 1 * 2 * 3 * 2
    assert one.agree == len(one.entries) * 4 / 5 and one.contradict == len(one.entries) / 5
    assert {e.specification.choices["corruption"] for e in one.entries if not e.agrees} == {"replacement"}
    assert next(iter(one.explained)) == "corruption" and one.explained["corruption"] > 0.8
    (own,) = [e for e in one.entries if e.specification.own]
    assert own.specification.choices == {
        "corruption": "noise, 3 sigma",
        "span": "all",
        "window": "1 layer",
        "direction": "restore",
        "metric": "p",
        "form": "as it is",
    }
    assert found.quantities["share of specifications that agree, F1"].estimate.mean == 0.8
    assert found.grids[0].columns[0] == "F1" and found.grids[0].lines[0].cells[0].mean == 180
    # The test: facts that agree do so by far more than chance; with all signs at random so does the median.
    assert all(e.p < 0.01 for e in one.entries if e.agrees) and one.median_p < 0.01
    assert "window" not in curves["F2"].levels and curves["F2"].agree < 20


def test_the_paper_s_window_is_ten_layers_of_its_own_models_and_a_share_of_others() -> None:
    assert [own_window(*one) for one in (("gpt2-xl", 48), ("gpt-j", 28), ("smollm2", 30))] == [10, 10, 6]
    curves = {curve.finding: curve for curve in measured(simulated("gpt-j")).charts}
    assert curves["F1"].levels["window"] == ["1 layer", "10 layers"]
    (own,) = [e for e in curves["F1"].entries if e.specification.own]
    assert own.specification.choices["window"] == "10 layers"


def test_spans_that_corrupt_the_same_tokens_are_one_specification() -> None:
    """A fact's prompt is its template with the subject, so that `template` corrupts what `all` does."""
    store = simulated()
    for record in (record for unit in TRACED for record in store.records(unit)):
        traces = record.payload["traces"]
        for key in [key for key in traces if key.split("|")[2] == "template"]:
            traces[key] = traces[key.replace("|template|", "|all|")]
    curves = {curve.finding: curve for curve in measured(store).charts}
    whole = {curve.finding: curve for curve in measured(simulated()).charts}
    for finding, curve in curves.items():
        assert set(curve.levels["span"]) == {"all", "after"}
        assert curve.same == len(whole[finding].entries) / 3 == len(curve.entries) / 2 and not whole[finding].same
        assert f"{curve.same} more corrupt the same tokens as another relation span" in curve.summary


def test_facts_that_a_way_leaves_out_are_counted_by_reason() -> None:
    (_, grid) = measured(simulated()).grids
    assert {line.heads: line.cells[0].mean for line in grid.lines} == {
        (perspective, reason): 3
        for perspective in PERSPECTIVES
        for reason in ("no donor: none", "the prompt ... has no token")
    }


EDITS = tuple(unit for unit in narrowed(MULTIVERSE, ["T3"], ["rome"]).units)
CONFOUNDED = "removal_without_space"


def edited(units: Sequence[Unit] = EDITS, **switches: bool) -> Any:
    """Edits that work on their own perspective alone, but for relation edits with CONFOUNDED corrected: these do
    nothing. The word "None" is easy, another relation hard: before any edit the relation beats the one alone.
    """
    draw = np.random.default_rng(2)

    def prompt(gained: float, another: bool) -> dict[str, Any]:
        new = 1.0 - gained + 0.2 * draw.normal()
        one = {"prompt": "p", "target_new": new, "target_true": 1.2, "new_right": gained > 0, "true_right": False}
        return one | ({"another": 0.6} if another else {})

    records = {}
    for unit in units:
        own = []
        for case in range(FACTS):
            views = {}
            for asked in PERSPECTIVES:
                works = unit.does == "edit" and asked == unit.perspective and CONFOUNDED not in unit.correct
                # A relation beats "None" before any edit; an object beats the old one after its edit alone.
                gained = 0.9 if works else 0.3 if asked == "relation" else -0.6
                groups = {"reliability": 1, "generality": 2, "specificity": 0}
                views[asked] = {
                    "prompts": {g: [prompt(gained, asked == "relation") for _ in range(n)] for g, n in groups.items()}
                }
            own.append(SimpleNamespace(case_id=case, status="done", payload={"views": views}))
        records[unit.name] = own
    plan = SimpleNamespace(units=units)
    info = SimpleNamespace(layers=LAYERS, model="world", plan=plan, relations={}, switches=switches)
    return SimpleNamespace(info=lambda: info, records=lambda unit: records[unit.name])


def test_simulated_edits_give_the_right_curves_share_test_and_choice() -> None:
    found = measured(edited())
    curves = {curve.finding: curve for curve in found.charts}
    one = curves["T1"]
    levels = one.levels
    own = METHODS["rome"].switches["relation"]
    assert levels["protocol"] == sorted(["corrected", "released", *(f"but {switch}" for switch in own)])
    assert levels["foil"] == ["None", "another relation"] and len(levels["prompts"]) == 3
    chosen = {"metric": "magnitude", "foil": "None"}
    by_magnitude = [e for e in one.entries if chosen.items() <= e.specification.choices.items()]
    # Edits that do nothing still lie above the entity's as they are, but not as changes: T1 rests on the choice.
    apart = {
        (e.specification.choices["protocol"], e.specification.choices["form"]) for e in by_magnitude if not e.agrees
    }
    assert apart == {(f"but {CONFOUNDED}", "change"), ("corrected", "change")}
    assert len(by_magnitude) == 7 * 3 * 2  # protocols, prompts, forms
    assert found.quantities["share of specifications that agree, T1"].estimate == one.share
    assert one.alike_agree and one.share.n == len(one.entries) + one.alike
    assert min(e.p for e in by_magnitude if e.agrees) < 0.01 and one.median_p < 0.01
    assert all(e.p > 0.05 for e in by_magnitude if not e.agrees)
    third = curves["T3"]
    assert "form" not in third.levels and set(third.levels["protocol"]) == set(levels["protocol"])
    assert {e.specification.choices["protocol"] for e in curves["T2"].entries} <= {
        "released",
        "corrected",
        *(f"but {switch}" for switch in METHODS["rome"].switches["entity"]),
    }


def test_edits_that_were_undone_before_the_scoring_are_no_specifications() -> None:
    """What was scored is the unedited model: under T3 it would differ from itself by nothing, and not agree."""
    units = narrowed(MULTIVERSE, ["T1", "T3"], ["rome", "kn"]).units
    assert {unit.correct for unit in units if unit.method == "kn"} > {(), ("kn_without_space",)}
    found = measured(edited(units, kn_undone=True))
    assert found.grids[0].caption.endswith("Edits that were undone before the scoring are no specifications: KN.")
    for curve in found.charts:
        of_kn = {
            e.specification.choices["protocol"] for e in curve.entries if e.specification.choices["method"] == "KN"
        }
        assert of_kn <= {"corrected", "but kn_undone"} and curve.share.n == len(curve.entries) + curve.alike
    alone, both = (
        next(curve for curve in measured(edited(chosen, kn_undone=True)).charts if curve.finding == "T3")
        for chosen in (EDITS, narrowed(MULTIVERSE, ["T3"], ["rome", "kn"]).units)
    )
    assert both.share.mean >= alone.share.mean


def test_the_paper_s_own_prompts_are_those_of_its_claims() -> None:
    """T2 and T3 speak of the entity's reliability and of the relation's generality."""
    orders = {claim.id: claim for claim in load_expected().claims}["T3"].orders
    assert {(one.perspective, one.group) for one in orders} == {("entity", "reliability"), ("relation", "generality")}
    found = edit_specifications(Edits(edited()))
    own = {finding: {one.choices["prompts"] for one in every if one.own} for finding, every in found.items()}
    assert own == {"T1": {"the prompt itself"}, "T2": {MIXED}, "T3": {MIXED}}


def test_what_the_run_itself_corrects_is_corrected_in_every_way() -> None:
    """Two ways that are then one protocol count once, under its name; none is the paper's own."""
    (curve, *_) = measured(edited(target_as_text=False)).charts
    own = METHODS["rome"].switches["relation"]
    pairs = [[switch for switch in own if switch in (one, "target_as_text")] for one in own]
    assert set(curve.levels["protocol"]) == {"corrected", *(f"but {', '.join(pair)}" for pair in pairs)}
    assert not any(one.specification.own for one in curve.entries)


def test_a_number_of_a_case_is_read_from_its_stored_prompts() -> None:
    """Foil, metric and prompts are choices of scoring alone: the table's own numbers are among them."""
    (record, *_) = edited().records(EDITS[1])
    numbers = dict(case_numbers(record.payload["views"]))
    first, second = record.payload["views"]["relation"]["prompts"]["generality"]
    every = [one["target_new"] < one["another"] for one in (first, second)]
    assert numbers["relation", "all rephrasings", "success", "another relation"] == np.mean(every)
    assert numbers["relation", "the first rephrasing", "success", "another relation"] == every[0]
    assert numbers["relation", "the first rephrasing", "magnitude", "None"] == pytest.approx(
        np.exp(-first["target_new"]) - np.exp(-first["target_true"])
    )
    assert ("entity", "all rephrasings", "success", "") in numbers
    assert not any(foil and (perspective, metric) == ("entity", "success") for perspective, _, metric, foil in numbers)


def test_a_run_without_the_plan_has_no_findings() -> None:
    info = SimpleNamespace(layers=LAYERS, model="world", plan=SimpleNamespace(units=()))
    assert measured(SimpleNamespace(info=lambda: info)) is None


def test_a_share_of_the_total_effect_needs_a_total_effect() -> None:
    """Clean 0.40, corrupted 0.41, restored 0.45: as a share of -0.01 the gain of 0.04 would read as a loss of four."""
    told = {"tokens": ["a"] * 3, "subject": [0], "span": [1], "clean": 0.4}
    rows = [
        trace_numbers("entity", told | {"corrupted": corrupted, "scores": [[0.45]] * 3}) for corrupted in (0.41, 0.3)
    ]
    records = _Records(simulated())
    made = records._made("entity", [(number, row.tolist()) for number, row in enumerate(rows)], True)
    assert made is not None and made.cases_F.tolist() == [1]
    (cases,) = (cases for (_, reason), cases in records.without.items() if "below a tenth of the mean" in reason)
    assert cases == {0}, "counted in the table of facts left out"
    assert np.nanmax(made.effects_FRL) == pytest.approx(1.5)
