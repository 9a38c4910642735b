"""Edit cases from known facts: what is drawn, from what, what is left out, and that order decides nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.errors import FactError
from artifact.facts.datasets.known import NEIGHBOURS, edit_cases
from artifact.facts.fact import Statement, fill
from artifact.facts.records import parse_statements

_ROWS = """
P36 | {}'s capital, | | Italy | Rome
P36 | {}'s capital, | | Papal States | Rome
P36 | The capital of {} is | the city of | Lazio | Rome
P36 | The capital of {} is | | France | Paris
P36 | The capital city of {} is | | Egypt | Cairo
P108 | {} is employed by | the | Lyse Doucet | BBC
P108 | {} is employed by | the | Jeff Hardy | WWE
P108 | {} is employed by | | Steve Jobs | Apple
P108 | {} is employed by | | Tim Cook | Apple
P407 | {} was written in | the early 1980s, when the | Il Gazzettino | Italian
P407 | {} is written in | | Le Monde | French
P407 | {} is written in | | El Mundo | Spanish
P30 | {} is located in the continent | of | Mount Cocks | Antarctica
P30 | {} belongs to the continent of | | Vietnam | Asia
P190 | {} is a twin city of | | Lyon | Beirut
P106 | {}'s profession is an | | Michael Dorn | actor
P106 | {}, who works as | a | Clark Kent | journalist
"""


def statements() -> list[Statement]:
    records = []
    for number, row in enumerate(_ROWS.strip().splitlines()):
        relation_id, template, tail, subject, obj = (part.strip() for part in row.split("|"))
        prompt = f"{fill(template, subject)} {tail}".rstrip()
        records.append({"known_id": number, "subject": subject, "attribute": obj, "template": template,
                        "prompt": prompt, "relation_id": relation_id})  # fmt: skip
    return parse_statements(records, "known")


def test_the_whole_of_a_case() -> None:
    cases = {fact.subject: fact for fact in edit_cases(statements(), "known").facts}
    italy = cases["Italy"]
    assert (italy.case_id, italy.template, italy.object_true) == (0, "{}'s capital,", "Rome")
    assert italy.object_new in ("Paris", "Cairo")
    assert italy.paraphrases == ("The capital of Italy is", "The capital city of Italy is")
    assert set(italy.neighbourhood) == {"Papal States's capital,", "The capital of Lazio is the city of"}
    view = italy.view("relation")
    assert (view.target, view.template) == ("capital", f"The relation between {{}} and {italy.object_new} is")
    assert len(view.generality) >= 4 and all("Italy" in prompt for prompt in view.generality)
    # The template alone would ask for no object: what the file has behind it does.
    assert cases["Vietnam"].paraphrases == ("Vietnam is located in the continent of",)


def test_an_object_suits_what_stands_before_it() -> None:
    cases = {fact.subject: fact for fact in edit_cases(statements(), "known").facts}
    assert cases["Lyse Doucet"].object_new == "WWE"  # "employed by the": not Apple
    assert cases["Steve Jobs"].object_new in ("BBC", "WWE")
    assert "Michael Dorn" not in cases and "Clark Kent" not in cases  # neither "an journalist" nor "a actor"
    assert "Lazio" not in cases


def test_what_is_left_out_is_counted() -> None:
    built = edit_cases([*statements(), Statement(90, "x y", "x", answer="z")], "known")
    assert built.left_out == {
        "no relation_id or attribute": 1,
        "the prompt runs on after its template": 1,
        "the relation has no other object that suits the prompt": 4,
    }
    assert len(built.facts) + sum(built.left_out.values()) == len(statements()) + 1


def test_an_object_that_is_true_or_named_is_not_written() -> None:
    rows = [("France", "Paris"), ("France", "Lyon"), ("Lazio", "Rome"), ("New Cairo", "Giza"), ("Egypt", "Cairo")]
    known = [Statement(i, f"{s}'s capital,", s, "{}'s capital,", o, "P36") for i, (s, o) in enumerate(rows)]
    for seed in range(0, 500, 10):
        moved = [Statement(seed + s.case_id, s.prompt, s.subject, s.template, s.answer, "P36") for s in known]
        new = {fact.subject: fact.object_new for fact in edit_cases(moved, "known").facts}
        assert new["France"] in ("Rome", "Giza", "Cairo")
        assert new["New Cairo"] != "Cairo"


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_order_decides_nothing(seed) -> None:
    shuffled = statements()
    random.Random(seed).shuffle(shuffled)
    found, expected = edit_cases(shuffled, "known"), edit_cases(statements(), "known")
    assert sorted(found.facts, key=lambda fact: fact.case_id) == expected.facts
    assert found.left_out == expected.left_out
    place = [statement.case_id for statement in shuffled]
    assert [fact.case_id for fact in found.facts] == sorted((f.case_id for f in found.facts), key=place.index)


def test_other_relations_decide_nothing() -> None:
    whole = edit_cases(statements(), "known").facts
    alone = edit_cases([s for s in statements() if s.relation_id == "P36"], "known").facts
    assert alone == [fact for fact in whole if fact.relation_id == "P36"]


def test_draws_differ_between_cases_and_neighbours_are_few() -> None:
    cities = [f"City{i}" for i in range(8)]
    known = [Statement(i, f"Land{i}'s capital,", f"Land{i}", None, cities[i % 8], "P36") for i in range(160)]
    facts = edit_cases(known, "known").facts
    assert len({fact.object_new for fact in facts if fact.object_true == "City0"}) > 4
    assert {len(fact.neighbourhood) for fact in facts} == {NEIGHBOURS}
    assert len({fact.neighbourhood for fact in facts}) == len(facts)
    for fact in facts:
        assert fact.prompt not in fact.neighbourhood


def test_an_unknown_relation() -> None:
    known = [Statement(i, f"s{i} is", f"s{i}", None, f"o{i}", "P9999") for i in range(2)]
    with pytest.raises(FactError, match="FILE: case 0: relation_id 'P9999' has no written name"):
        edit_cases(known, "FILE")
    assert [view.perspective for view in edit_cases(known, "FILE", False).facts[0].views()] == ["entity"]


_TEXT = st.text(st.sampled_from("ab, {}.the"), max_size=10)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(_TEXT, _TEXT, _TEXT, _TEXT), min_size=1, max_size=6))
def test_whatever_parses_is_built_or_refused(rows) -> None:
    records = [
        {"subject": f"S{i}{subject}", "prompt": f"{before}S{i}{subject}{after}", "attribute": obj, "relation_id": "P36"}
        for i, (subject, before, after, obj) in enumerate(rows)
    ]
    try:
        built = edit_cases(parse_statements(records, "file"), "file")
    except FactError as error:
        assert str(error).startswith("file: ")
        return
    assert len(built.facts) + sum(built.left_out.values()) == len(records)
    for fact in built.facts:
        assert fact.prompt == records[fact.case_id]["prompt"]
        assert fact.object_new.casefold() not in (fact.object_true.casefold(), fact.prompt.casefold())
        assert len(fact.views()) == 2
