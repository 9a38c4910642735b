"""Records of EasyEdit, KnowEdit and zsRE become CounterFact-style ones, or are left out with a reason."""

import pytest

from artifact.facts.convert import convert
from artifact.facts.fact import Question
from artifact.facts.records import parse_facts

PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Lea")
EASYEDIT = [
    {
        "case_id": 7 * n,
        "prompt": f"The mother tongue of {name} Smith is",
        "target_new": "English",
        "subject": f"{name} Smith",
        "ground_truth": "French",
        "rephrase_prompt": f"Where {name} Smith is from, people speak",
        "locality_prompt": "Jean Dupont is a native speaker of",
        "locality_ground_truth": "French",
    }
    for n, name in enumerate(PEOPLE)
]
KNOWEDIT = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "ground_truth": [["Warsaw", "Warszawa"]],
    "rephrase": "Leo Arons died in",
    "portability": {"Reasoning": [{"prompt": "x", "ground_truth": [["y"]]}]},
    "locality": {
        "Relation_Specificity": [{"prompt": "Leo Arons worked as", "ground_truth": [["physicist"]]}],
        "Forgetfulness": [{"prompt": ["Jan Kowalski died in"], "ground_truth": ["Warsaw"]}],
        "odd": None,
    },
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "At what university did Watts Humphrey study?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who sings it",
    "loc_ans": "Hugo",
}


def test_easyedit_s_records_keep_their_case_and_their_neighbour() -> None:
    made = convert(EASYEDIT, "easyedit", "f")
    assert (len(made.records), made.left_out, made.unused) == (12, {}, 0)
    facts = parse_facts(made.records, "f")
    assert [fact.case_id for fact in facts] == [record["case_id"] for record in EASYEDIT]
    for fact, record in zip(facts, EASYEDIT, strict=True):
        assert (fact.prompt, fact.subject) == (record["prompt"], record["subject"])
        assert (fact.object_new, fact.object_true) == ("English", "French")
        assert fact.paraphrases == (record["rephrase_prompt"],)
        assert fact.neighbourhood == ("Jean Dupont is a native speaker of",)
        assert fact.relation is None
    assert convert({**EASYEDIT[0], "relation_id": "P103"}, "easyedit", "f").records[0]["requested_rewrite"] == {
        "prompt": "The mother tongue of {} is",
        "subject": "Ada Smith",
        "target_new": {"str": "English"},
        "target_true": {"str": "French"},
        "relation_id": "P103",
    }


def test_knowedit_s_lists_are_read_and_only_true_neighbours_kept() -> None:
    made = convert([KNOWEDIT], "knowedit", "f")
    (fact,) = parse_facts(made.records, "f")
    assert (fact.case_id, fact.object_true, made.unused) == (0, "Warsaw", 0)
    assert fact.paraphrases == ("Leo Arons died in",) and fact.neighbourhood == ("Jan Kowalski died in",)
    assert fact.other_relations == (Question("Leo Arons worked as", "physicist"),)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Jan Kowalski worked as", "physicist"),  # another subject, and perhaps another relation
        ("Leo Aronson worked as", "physicist"),  # its name begins as the subject's
        ("Leo Arons worked in", "Berlin"),  # what the edit writes
        ("Leo Arons worked as", ""),
    ],
)
def test_a_prompt_about_another_fact_needs_the_subject_and_an_answer_of_its_own(asked: str, answer: str) -> None:
    row = KNOWEDIT | {"locality": {"Relation_Specificity": [{"prompt": asked, "ground_truth": answer}]}}
    made = convert([row], "knowedit", "f")
    (fact,) = parse_facts(made.records, "f")
    assert (fact.other_relations, fact.neighbourhood, made.unused) == ((), (), 1)


def test_other_answers_of_the_fact_s_own_relation_are_no_other_relation() -> None:
    """KnowEdit's Forgetfulness, where an edit may well change the answer."""
    own = {"prompt": "The place of death of Leo Arons, which is not Warsaw, is", "ground_truth": [["Lodz"]]}
    made = convert([KNOWEDIT | {"locality": {"Forgetfulness": [own]}}], "knowedit", "f")
    (fact,) = parse_facts(made.records, "f")
    assert (fact.other_relations, made.unused) == ((), 1)


def test_zsre_s_first_answer_is_the_true_object() -> None:
    made = convert(ZSRE, "zsre", "f")
    (fact,) = parse_facts(made.records, "f")
    assert fact.template == "What university did {} attend?" and fact.object_new == "University of Michigan"
    assert fact.object_true == "Illinois Institute of Technology" and not fact.neighbourhood and made.unused == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ground_truth": None}, "ground_truth missing or without a text"),
        ({"ground_truth": [[]], "target_new": " "}, "target_new and ground_truth missing or without a text"),
        ({"ground_truth": "English"}, "are both 'English'"),
        ({"subject": "Zoe"}, "subject 'Zoe' is not in the prompt"),
        ({"subject": "mo"}, "subject 'mo' stands inside a word"),
        ({"prompt": "Ada Smith and Ada Smith"}, "occurs more than once"),
        ({"prompt": "The {} of Ada Smith is"}, "requested_rewrite.prompt must hold exactly one {}"),
        ({"case_id": 7}, "case_id 7 is an earlier record's, too"),
        ({"case_id": "7"}, "case_id 7 is an earlier record's, too"),
        ({"case_id": [1]}, "Expected `int | null`"),
        ({"rephrase_prompt": "{} is"}, "paraphrase_prompts[0] must not hold {}"),
    ],
)
def test_what_cannot_be_converted_is_left_out_with_its_reason(change: dict, says: str) -> None:
    made = convert([EASYEDIT[1], {**EASYEDIT[0], **change}, None, EASYEDIT[2]], "easyedit", "f")
    assert [record["case_id"] for record in made.records] == [7, 14]
    assert list(made.left_out) == [1, 2] and says in made.left_out[1] and not made.left_out[1].startswith("f:")
    assert made.left_out[2] == "it is not an object" and sum(made.reasons().values()) == 2


def test_reasons_are_counted_without_their_texts() -> None:
    records = [{**record, "subject": name} for record, name in zip(EASYEDIT[:2], ("Zoe", "O'Neil"), strict=True)]
    ((reason, count),) = convert(records, "easyedit", "f").reasons().items()
    assert count == 2 and reason == "subject ... is not in the prompt ...; give one that occurs in it"
