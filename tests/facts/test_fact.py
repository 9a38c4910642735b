"""Records are parsed strictly, and their two views ask what they should."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.errors import FactError
from artifact.facts.datasets.everyday import everyday_records
from artifact.facts.records import TEXT_LIMIT, parse_facts, parse_statements, read_facts
from artifact.reading import decode_json

KNOWN = {"known_id": 7, "subject": "Vinson Massif", "attribute": "Antarctica", "template": "{} is located in",
         "prediction": " the continent", "prompt": "Vinson Massif is located in the continent of",
         "relation_id": "P30"}  # fmt: skip


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
    with pytest.raises(FactError, match="case 0: the relation perspective needs"):
        fact.view("relation")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("prompt",), "no place for it", r"requested_rewrite.prompt must hold exactly one \{\}"),
        (("prompt",), "{} and {}", "exactly one"),
        (("subject",), " ", "subject is empty"),
        (("target_new",), {}, r"missing required field `str`.*target_new"),
        (("target_true", "str"), 3, r"Expected `str`, got `int`.*target_true.str"),
        (("target_true", "str"), None, r"Expected `str`, got `null`.*target_true.str"),
        (("relation", "strs"), [], "strs is empty"),
        (("relation",), None, "requested_rewrite.relation missing .* give all three or none"),
        (("subject",), "France {}", r"requested_rewrite.subject must not hold \{\}"),
        (("prompt",), "{}" + "x" * TEXT_LIMIT, r"length <= 10000 - at `\$.requested_rewrite.prompt`"),
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


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("case_id", -1, r"Expected `int` >= 0 - at `\$.case_id`"),
        ("case_id", 2**63, r"Expected `int` <= 9223372036854775807 - at `\$.case_id`"),
        ("case_id", float("nan"), r"Expected `int \| null`, got `float` - at `\$.case_id`"),
        ("case_id", 0, "records 0 and 1 both have case_id 0; give each its own"),
        ("paraphrase_prompts", "one text", r"Expected `array`, got `str` - at `\$.paraphrase_prompts`"),
        ("paraphrase_prompts", ["fine", " "], r"record 1: paraphrase_prompts\[1\] is empty"),
        ("neighborhood_prompts", [7], r"Expected `str`, got `int` - at `\$.neighborhood_prompts\[0\]`"),
        ("neighborhood_prompts", ["x"] * 1_001, r"Expected `array` of length <= 1000"),
        ("rel_prompts", ["{} and Rome are"], r"rel_prompts\[0\] must not hold \{\}"),
    ],
)
def test_errors_of_lists_and_ids(record, field, value, says) -> None:
    with pytest.raises(FactError, match=f"test: .*{says}"):
        parse_facts([record, {**record, "case_id": 1, field: value}], "test")


def test_other_braces_and_unread_fields_stay(record) -> None:
    rewrite = {**record["requested_rewrite"], "prompt": "{x} }{ {{}} is", "subject": "{France}"}
    (fact,) = parse_facts({**record, "requested_rewrite": rewrite, "generation_prompts": 3, "more": [{}]}, "test")
    assert fact.prompt == "{x} }{ {{France}} is"


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(FactError, match=r"absent.json: cannot be read"):
        read_facts(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_bytes(b'[{"requested_rewrite": ')
    with pytest.raises(FactError, match=r"bad.json: is not valid JSON"):
        read_facts(tmp_path / "bad.json")
    with pytest.raises(FactError, match="cannot be read"):
        read_facts(tmp_path)
    with pytest.raises(FactError, match="cannot be read"):
        read_facts("a\0b")
    with pytest.raises(FactError, match="holds no record"):
        parse_facts([], "test")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[NaN]", "is not valid JSON"),
        (b"[1e999]", "is not valid JSON"),
        (b'["\xff"]', "is not valid JSON"),
        (b'["\\ud800"]', "is not valid JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"", "is not valid JSON"),
    ],
)
def test_bytes_that_are_no_records(content, says) -> None:
    with pytest.raises(FactError, match=f"file.json: {says}"):
        decode_json(content, "file.json")


def test_statements_from_both_layouts(record) -> None:
    (statement,) = parse_statements([KNOWN], "test")
    assert (statement.case_id, statement.subject, statement.answer) == (7, "Vinson Massif", "Antarctica")
    (statement,) = parse_statements([record], "test")
    assert (statement.prompt, statement.answer) == ("The capital of France is", "Paris")
    assert statement.relation_id == "P36"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": "Everest"}, "record 1: subject 'Everest' is not in the prompt"),
        ({"subject": "i"}, "record 1: subject 'i' occurs more than once in its prompt"),
        ({"subject": ""}, "record 1: subject is empty"),
        ({"prompt": None}, r"record 1: Expected `str`, got `null` - at `\$.prompt`"),
        ({"prompt": "Vinson Massif {}"}, r"record 1: prompt must not hold \{\}"),
        ({"template": "{} lies in"}, "record 1: the prompt .* does not open with the template '{} lies in'"),
        ({"template": "lies in"}, r"record 1: the template must hold exactly one \{\}"),
        ({"attribute": " "}, "record 1: attribute is empty"),
        ({"known_id": 7}, "records 0 and 1 both have known_id 7"),
    ],
)
def test_errors_of_known_facts(changes, says) -> None:
    with pytest.raises(FactError, match=f"test: {says}"):
        parse_statements([KNOWN, {**KNOWN, "known_id": 8, **changes}], "test")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("{}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _places(value: object, here: tuple = ()) -> list[tuple]:
    """Every place inside a record, as the keys that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in [(*here, key), *_places(part, (*here, key))]]


@pytest.mark.parametrize("parse", [parse_facts, parse_statements])
@settings(derandomize=True, deadline=None, max_examples=80)
@given(data=st.data())
def test_any_record_is_read_or_refused(parse, data) -> None:
    whole = everyday_records()[:2] if parse is parse_facts else [KNOWN, {**KNOWN, "known_id": 1}]
    changed = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, key = data.draw(st.sampled_from(_places(changed)))
        inside = changed
        for step in path:
            inside = inside[step]
        if data.draw(st.booleans()):
            inside[key] = data.draw(_JSON)
        else:
            del inside[key]
        if not _places(changed):
            break
    try:
        found = parse(changed, "test")
    except FactError as error:
        assert str(error).startswith("test: ") and "\n" not in str(error)
    else:
        assert len({one.case_id for one in found}) == len(found) == len(changed)
        for one in found:
            assert one.subject in one.prompt


@settings(derandomize=True, deadline=None, max_examples=150)
@given(content=st.binary(max_size=60), at=st.integers(0, 500), cut=st.integers(0, 40))
def test_any_bytes_are_read_or_refused(content, at, cut) -> None:
    whole = json.dumps(everyday_records()[0]).encode()
    for candidate in (content, whole[:at] + content + whole[at + cut :]):
        try:
            facts = parse_facts(decode_json(candidate, "test"), "test")
        except FactError as error:
            assert str(error).startswith("test: ")
        else:
            assert [fact.prompt.count(fact.subject) for fact in facts]


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
