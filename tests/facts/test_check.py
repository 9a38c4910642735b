"""Every record of a fact file is looked at, every fault of it is named, and what can be used is counted."""

import json
from pathlib import Path

from artifact.facts.check import Checked, check_records, uses
from artifact.facts.datasets import OWN
from artifact.facts.records import parse_facts
from artifact.sources.catalogue import NEW_FACTS, WORLD

WORLD_RECORDS = json.loads((WORLD / "facts.json").read_text())[:4]
KNOWN = {"known_id": 7, "subject": "Vinson Massif", "attribute": "Antarctica", "template": "{} is in",
         "prompt": "Vinson Massif is in", "relation_id": "P30"}  # fmt: skip


def said(checked: Checked) -> str:
    return "\n".join(uses(checked, "ft, rome", "ft"))


def test_the_template_of_new_facts_has_every_field_and_no_fault() -> None:
    checked = check_records(json.loads(NEW_FACTS.read_text()), "new")
    assert (checked.records, checked.lines(), len(checked.facts)) == (2, [], 2)
    for fact in checked.facts:
        assert fact.paraphrases and fact.neighbourhood and fact.relation and fact.relation_paraphrases
        assert fact.another_relation and fact.relation_id and fact.add_template and fact.removal_template
    assert "all records in one edit, relation perspective: ft" in said(checked)


def test_a_damaged_first_record_does_not_make_known_facts_of_a_file(tmp_path: Path) -> None:
    """The check and the commands that take the file read it in one way."""
    records = json.loads(json.dumps(WORLD_RECORDS * 8))
    for case_id, record in enumerate(records):
        record["case_id"] = case_id
    del records[0]["requested_rewrite"]
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(records))
    checked, data = check_records(records, "f"), OWN.load(file, "authors", False)
    assert len(checked.facts) == len(data.facts) == len(records) - 1 and len(data.odd) == 1
    assert "requested_rewrite" in checked.lines()[0] and "requested_rewrite" in data.odd[0].reason


def test_all_faults_of_all_records_are_named() -> None:
    first, second, third, fourth = json.loads(json.dumps(WORLD_RECORDS))
    first["requested_rewrite"] |= {"prompt": "no place", "rm_rel_prompt": "none either", "subject": " "}
    second["paraphrase_prompts"] = ["{} is", ""]
    third["case_id"] = fourth["case_id"]
    checked = check_records([first, second, third, fourth, "a text"], "f")
    ids = [record["case_id"] for record in WORLD_RECORDS]
    assert [line.partition("; ")[0] for line in checked.lines()] == [
        f"record 0, case {ids[0]}: requested_rewrite.prompt must hold exactly one {{}} for the subject, got 'no place'",
        f"record 0, case {ids[0]}: requested_rewrite.rm_rel_prompt must hold exactly one {{}} for the subject, got "
        "'none either'",
        f"record 0, case {ids[0]}: requested_rewrite.subject is empty",
        f"record 1, case {ids[1]}: paraphrase_prompts[0] must not hold {{}}, got '{{}} is'",
        f"record 1, case {ids[1]}: paraphrase_prompts[1] is empty",
        f"record 3: case_id {ids[3]} is that of record 2, too",
        "record 4, case 4: Expected `object`, got `str`",
    ]
    assert [fact.case_id for fact in checked.facts] == [ids[3]] and checked.records == 5


def test_what_can_be_used_is_counted() -> None:
    plain, conflicting, built, _ = json.loads(json.dumps(WORLD_RECORDS))
    for record in (plain, conflicting, built):
        for name in ("relation", "add_rel_prompt", "rm_rel_prompt"):
            del record["requested_rewrite"][name]
    built["requested_rewrite"]["relation_id"] = "P17"
    plain["requested_rewrite"]["relation_id"] = "none"
    conflicting["requested_rewrite"] = plain["requested_rewrite"] | {"target_new": {"str": "elsewhere"}}
    plain["neighborhood_prompts"] = []
    text = said(check_records([plain, conflicting, built, WORLD_RECORDS[3]], "f"))
    assert (
        "entity perspective: 4 of 4 records, 4 with rephrasings (generality), 3 with neighbours (specificity)" in text
    )
    assert "relation perspective: 1 of 4 records, 1 with rephrasings (generality)" in text
    assert "without relation fields: 3; --relation-source templates can build them for 1 in" in text
    assert f"entity perspective: none: case {plain['case_id']} and case {conflicting['case_id']} want " in text
    assert "one record an edit: ft, rome" in text and "in one edit, relation perspective" not in text


def test_known_facts_are_checked_as_such() -> None:
    others = [KNOWN | {"known_id": 8, "subject": "Kenya", "prompt": "Kenya is in", "attribute": "Africa"}]
    others += [KNOWN | {"known_id": 9, "subject": "", "prompt": "{}", "attribute": " "}, KNOWN]
    others += [KNOWN | {"known_id": 1, "subject": "i", "template": None}]
    checked = check_records([KNOWN, *others], "f")
    assert len(checked.statements) == 2 and checked.note.startswith("known facts: `kloc run` builds edit cases")
    assert [line.partition("; ")[0] for line in checked.lines()] == [
        "record 2, case 9: subject is empty",
        "record 2, case 9: prompt must not hold {}, got '{}'",
        "record 2, case 9: attribute is empty",
        "record 3: known_id 7 is that of record 0, too",
        "record 4, case 1: subject 'i' occurs more than once in its prompt 'Vinson Massif is in'",
    ]
    assert "traces: 2 prompts" in said(checked)


def test_faults_that_a_model_finds_take_their_records_out() -> None:
    checked = check_records(WORLD_RECORDS, "f")
    case = WORLD_RECORDS[2]["case_id"]
    found = checked.also({case: "too long"})
    assert found.lines() == [f"record 2, case {case}: too long"] and checked.lines() == []
    assert len(found.facts) == len(found.statements) == 3


def test_the_document_shows_the_template() -> None:
    document = (Path(__file__).parents[2] / "docs" / "facts.md").read_text()
    shown = document.partition("```json\n")[2].partition("```")[0]
    assert shown == NEW_FACTS.read_text() and len(parse_facts(json.loads(shown), "docs")) == 2
