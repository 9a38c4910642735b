"""Records are parsed strictly, and their two views ask what they should."""

import copy
import json

import pytest

from artifact.errors import FactError
from artifact.facts.everyday import everyday_records
from artifact.facts.fact import parse_facts, parse_statements, read_facts


@pytest.fixture
def record(reference) -> dict:
    return json.loads((reference / "facts.json").read_text())[0]


def test_views(record) -> None:
    (fact,) = parse_facts(record, "test")
    entity, relation = fact.views()
    assert (entity.template, entity.target, entity.foil, entity.removal) == (
        "The capital of {} is",
        "Rome",
        "Paris",
        None,
    )
    assert entity.reliability == ("The capital of France is",)
    assert len(entity.generality) == 2 and len(entity.specificity) == 2
    assert (relation.target, relation.foil) == ("capital", "None")
    assert relation.template == "The relation between {} and Rome is"
    assert relation.removal == "The relation between {} and Paris is"
    assert relation.reliability == ("The relation between France and Rome is",)
    assert relation.specificity == ()


def test_plain_counterfact_has_one_view(record) -> None:
    rewrite = record["requested_rewrite"]
    del rewrite["relation"], rewrite["add_rel_prompt"], rewrite["rm_rel_prompt"]
    (fact,) = parse_facts(record, "test")
    assert [view.perspective for view in fact.views()] == ["entity"]
    with pytest.raises(FactError, match="case 0: the relation view needs"):
        fact.view("relation")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("prompt",), "no place for it", r"requested_rewrite.prompt must hold exactly one \{\}"),
        (("prompt",), "{} and {}", "exactly one"),
        (("subject",), " ", "subject is empty"),
        (("target_new",), {}, r"missing required field `str`.*target_new"),
        (("target_true", "str"), 3, r"Expected `str`, got `int`.*target_true.str"),
        (("relation", "strs"), [], "strs is empty"),
    ],
)
def test_errors_name_record_and_field(record, path, value, says) -> None:
    bad = copy.deepcopy(record)
    place = bad["requested_rewrite"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(FactError, match=f"test: record 1: .*{says}"):
        parse_facts([record, bad], "test")


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(FactError, match=r"absent.json: cannot be read"):
        read_facts(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_bytes(b'[{"requested_rewrite": ')
    with pytest.raises(FactError, match=r"bad.json: is no valid JSON"):
        read_facts(tmp_path / "bad.json")
    with pytest.raises(FactError, match="holds no record"):
        parse_facts([], "test")


def test_statements_from_both_layouts(record) -> None:
    known = {"known_id": 7, "subject": "Vinson Massif", "attribute": "Antarctica", "template": "{} is located in",
             "prediction": " the continent", "prompt": "Vinson Massif is located in the continent of"}  # fmt: skip
    (statement,) = parse_statements([known], "test")
    assert (statement.case_id, statement.subject, statement.answer) == (7, "Vinson Massif", "Antarctica")
    (statement,) = parse_statements([record], "test")
    assert (statement.prompt, statement.answer) == ("The capital of France is", "Paris")
    with pytest.raises(FactError, match=r"record 0: subject 'Everest' is not in its prompt"):
        parse_statements([{**known, "subject": "Everest"}], "test")


def test_everyday_facts_are_well_formed() -> None:
    facts = parse_facts(everyday_records(), "everyday")
    assert len(facts) == 24
    assert [fact.case_id for fact in facts] == list(range(24))
    assert len({fact.subject for fact in facts}) == 24
    for fact in facts:
        assert fact.object_new != fact.object_true
        assert len(fact.paraphrases) == 2 and all(fact.subject in text for text in fact.paraphrases)
        assert len(fact.relation_paraphrases) == 2
        assert all(fact.object_new in text for text in fact.relation_paraphrases)
