"""Plans hold what the paper's tables and figures need, the most useful first, and narrow without losing a base."""

import pickle
from itertools import combinations, product

import msgspec
import pytest

from artifact.errors import SettingError
from artifact.plans import PLANS, find_plans, narrowed, narrowing_of
from artifact.plans.multiverse import MULTIVERSE
from artifact.plans.paper import PAPER_METHODS, PAPER_MODELS, SMOKE, SMOKE_FEW_FACTS
from artifact.plans.unit import EDITED_FOR, PARTS, TRACED_FOR, Plan, Unit
from artifact.reporting.expected import load_expected

XL = find_plans("gpt2-xl")[0]


def test_plans_are_well_formed() -> None:
    assert find_plans("smoke") == (SMOKE,) and not SMOKE.of_the_paper
    with pytest.raises(SettingError, match="plan 'nope' is unknown; expected one of smoke, sample"):
        find_plans("nope")
    for plans in PLANS.values():
        for plan in plans:
            names = [unit.name for unit in plan.units]
            assert len(set(names)) == len(names) and all(unit.batch > 0 for unit in plan.units)
            assert plan.units[0].does == "unedited" or not any(unit.does == "edit" for unit in plan.units)
            assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan


def test_full_measures_every_published_cell_and_every_kind_of_trace() -> None:
    plans = {plan.models[0]: plan for plan in find_plans("full")}
    assert tuple(plans) == PAPER_MODELS
    for cell in load_expected().cells:
        units = plans[cell.model].units
        (unit,) = [u for u in units if u.does == "edit" and (u.method, u.perspective) == (cell.method, cell.edited)]
        assert unit.most is None and f"table{1 if cell.edited == 'relation' else 2}" in unit.parts
    for claim in load_expected().claims:
        for model in claim.models:
            traced = {(unit.trace_kind.name, unit.perspective) for unit in plans[model].units if unit.does == "trace"}
            assert {(kind, view) for kind in claim.kinds for view in ("entity", "relation")} <= traced
    assert all(unit.window == 10 for plan in plans.values() for unit in plan.units)


def test_an_early_stop_leaves_the_main_rows() -> None:
    names = [unit.name for unit in XL.units]
    assert names[:5] == ["unedited", "rome-relation", "rome-entity", "memit-relation", "memit-entity"]
    assert names.index("trace-mlp-relation") < names.index("ft-relation") < names.index("trace-severed-mlp-entity")


def test_sample_takes_200_facts_of_everything() -> None:
    (sample,) = find_plans("sample")
    assert {unit.name for unit in sample.units} == {unit.name for unit in XL.units}
    assert {unit.most for unit in sample.units} == {200}


@pytest.mark.parametrize("part", PARTS)
def test_narrowing_to_a_part(part: str) -> None:
    found = narrowed(XL, [part])
    assert found.of_the_paper and 0 < len(found.units) < len(XL.units)
    assert found.units == tuple(unit for unit in XL.units if part in unit.parts)
    assert ("unedited" in {unit.name for unit in found.units}) == part.startswith(("table", "T"))


def test_parts_for_claims_are_what_the_claims_compare() -> None:
    """The tables of plans/unit.py against the claims' own regions, bounds and orders."""
    for claim in load_expected().claims:
        (part,) = [one for one in PARTS if one == claim.id]
        regions = [one for effect in claim.effects for one in (effect.region, effect.over) if one is not None]
        if regions:
            assert set(TRACED_FOR[part]) == {(one.kind, one.perspective) for one in regions}
        else:
            edited = {b.edited for b in claim.bounds} | {side for o in claim.orders for side in (o.lower, o.higher)}
            assert set(EDITED_FOR[part]) == edited


def test_the_multiverse_is_narrowed_by_finding_and_shares_the_papers_units() -> None:
    def names(*only: str) -> list[str]:
        return [unit.name for unit in narrowed(MULTIVERSE, only).units]

    assert names("F1") == ["multiverse-mlp-relation"] and names("F2") == ["multiverse-hidden-relation"]
    assert set(names("F4")) == {unit.name for unit in MULTIVERSE.units if unit.does == "task"}
    first = names("T1")
    assert first[0] == "unedited" and all("relation" in name for name in first[1:])
    assert "rome-relation-but-removal_without_space" in first and "mend-relation-corrected" in first
    paper = {unit.name: unit for unit in XL.units}
    shared = [unit for unit in MULTIVERSE.units if unit.does in ("unedited", "edit") and not unit.correct]
    assert all(msgspec.structs.replace(unit, most=None) == paper[unit.name] for unit in shared)
    assert narrowing_of(narrowed(MULTIVERSE, ["F3"])) == (("F3",), ())
    (beyond,) = PLANS["beyond"]
    assert {(u.method, u.perspective) for u in beyond.units if u.correct} <= {
        (u.method, u.perspective) for u in beyond.units if u.does == "edit" and not (u.correct or u.control)
    }


@pytest.mark.parametrize("plan", [plan for plans in PLANS.values() for plan in plans], ids=lambda plan: plan.name)
def test_a_narrowed_plan_is_found_again_in_no_more_words(plan: Plan) -> None:
    """For every part and pair of parts: with all methods, also where a unit is left out of the run, and with one."""
    for only, methods in product((*combinations(PARTS, 1), *combinations(PARTS, 2)), ((), plan.methods[:1])):
        try:
            found = narrowed(plan, only, methods)
        except SettingError:
            continue  # nothing of the plan is for these
        left_out = [unit.name for unit in found.units[1:][-1:] if not methods]
        kept = [unit for unit in found.units if unit.name not in left_out]
        parts, asked = narrowing_of(msgspec.structs.replace(found, units=tuple(kept)), left_out)
        assert [unit for unit in narrowed(plan, parts, asked).units if unit.name not in left_out] == kept
        assert len(parts) <= len(only) and set(asked) <= set(methods)


def test_narrowing_to_methods_keeps_the_base() -> None:
    found = narrowed(XL, ["table1", "table2"], ["rome", "memit"])
    names = [unit.name for unit in found.units]
    assert names == ["unedited", "rome-relation", "rome-entity", "memit-relation", "memit-entity"]
    assert narrowed(XL) is XL and narrowed(XL, PARTS, PAPER_METHODS["gpt2-xl"]) is XL
    assert narrowing_of(found) == (("T3",), ("rome", "memit"))  # both tables in fewer words
    assert narrowing_of(narrowed(XL, ["figure3"])) == (("figure3",), ())
    assert narrowing_of(narrowed(XL, [], ["mend"])) == ((), ("mend",))
    assert narrowing_of(XL) == narrowing_of(SMOKE) == narrowing_of(SMOKE_FEW_FACTS) == ((), ())
    with pytest.raises(SettingError, match="--methods 'romm' is unknown; expected one of"):
        narrowed(XL, [], ["romm"])
    with pytest.raises(SettingError, match="--only table1 leaves nothing of the plan smoke"):
        narrowed(msgspec.structs.replace(SMOKE, units=SMOKE.units[-1:]), ["table1"])


def test_a_stored_unit_names_what_is_not_its_default_alone() -> None:
    """So that a new field changes no older run.json; a field that is not known is no setting to pass over."""
    unit = Unit("trace", "trace", 4, perspective="relation")
    assert msgspec.to_builtins(unit) == {"name": "trace", "does": "trace", "batch": 4, "perspective": "relation"}
    with pytest.raises(msgspec.ValidationError, match="unknown field `corrupt`"):
        msgspec.convert({"name": "trace", "does": "trace", "batch": 4, "corrupt": "relation"}, Unit)


def test_what_run_json_says_of_a_unit_does_not_depend_on_where_it_was() -> None:
    """Pickled to a Ray worker, or read from a file, it is written with the same bytes: checksums are tied to them."""
    for unit in SMOKE.units:
        written = msgspec.json.encode(unit)
        read = msgspec.json.decode(written, type=Unit)
        assert msgspec.json.encode(pickle.loads(pickle.dumps(unit))) == written == msgspec.json.encode(read)
        whole = {name: getattr(unit, name) for name in unit.__struct_fields__}
        assert msgspec.json.encode(msgspec.convert(msgspec.json.decode(msgspec.json.encode(whole)), Unit)) == written
