"""One odd record never refuses the others: a failed case with its record, field and reason; many refuse the file."""

import json
from pathlib import Path

import pytest

from artifact.cli import call
from artifact.errors import FactError
from artifact.evaluation.score import score_cases
from artifact.facts.datasets.own import own
from artifact.facts.fact import Fact
from artifact.facts.layouts import decode_records
from artifact.facts.odd import OddRecord, parse_records
from artifact.facts.records import parse_facts, read_facts
from artifact.runs.store import reading
from artifact.sources.catalogue import WORLD

RECORDS = json.loads((WORLD / "facts.json").read_text())[:40]


def changed(number: int, **fields: object) -> list[dict]:
    """The records, with one whose fields (a dot leads into it) are others."""
    found = json.loads(json.dumps(RECORDS))
    for path, value in fields.items():
        *outer, last = path.replace("__", ".").split(".")
        place = found[number]
        for name in outer:
            place = place[name]
        place[last] = value
    return found


ODD = {
    "a placeholder in a complete prompt": (
        {"paraphrase_prompts": ["{} is", "x"]},
        "paraphrase_prompts[0] must not hold",
    ),
    "an empty string": ({"requested_rewrite__subject": " "}, "requested_rewrite.subject is empty"),
    "an empty rephrasing": ({"rel_prompts": [""]}, "rel_prompts[0] is empty"),
    "a filled slot": ({"requested_rewrite__prompt": "Velmora lies in"}, "must hold exactly one {}"),
    "a doubled slot": ({"requested_rewrite__prompt": "{} and {} lie in"}, "must hold exactly one {}"),
    "no rewrite": ({"requested_rewrite": None}, "requested_rewrite"),
    "a blank at a subject's end": ({"requested_rewrite__subject": "Velmora "}, "'Velmora ' has blanks at its ends"),
    "one object twice": (
        {"requested_rewrite__target_new": {"str": RECORDS[3]["requested_rewrite"]["target_true"]["str"]}},
        "are both",
    ),
    "a number for a text": ({"requested_rewrite__target_new": {"str": 7}}, "target_new"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_a_failed_case_with_its_reason(name: str) -> None:
    fields, says = ODD[name]
    found = parse_records(changed(3, **fields), "facts.json")
    (odd,) = [one for one in found if isinstance(one, OddRecord)]
    assert found.index(odd) == 3 and odd.case_id == RECORDS[3]["case_id"]
    assert odd.reason.startswith("record 3: ") and says in odd.reason
    good = [one for one in found if one is not odd]
    assert good == [one for one in parse_facts(RECORDS, "facts.json") if one.case_id != odd.case_id]


@pytest.mark.parametrize("field", ["paraphrase_prompts", "rel_prompts"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_missing_rephrasing_is_a_failed_case_that_tracing_still_asks(field: str, gone: bool, tmp_path: Path) -> None:
    records = changed(3, **{field: []})
    if gone:
        del records[3][field]
    found = parse_records(records, "facts.json")
    (odd,) = [one for one in found if isinstance(one, OddRecord)]
    reason = f"record 3: {field} is missing or empty; give it a rephrasing"
    assert (found.index(odd), odd.case_id, odd.reason) == (3, RECORDS[3]["case_id"], reason)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    data = own(path)
    assert len(data.facts) == 39 and [one.case_id for one in data.statements] == data.case_ids


def test_a_file_without_rephrasings_has_no_such_column(tmp_path: Path) -> None:
    """The user's own; CounterFact always has them."""
    records = [record | {"paraphrase_prompts": []} for record in RECORDS[:20]] + RECORDS[20:]
    assert all(isinstance(one, Fact) for one in parse_records(records, "facts.json"))
    with pytest.raises(FactError, match="20 of 40 records are odd, more than one in twenty .20 times: paraphrase_"):
        parse_records(records, "facts.json", every=True)


def test_more_than_one_in_twenty_refuses_the_file_with_the_reasons() -> None:
    records = changed(3, rel_prompts=[""])
    records[7]["requested_rewrite"]["subject"] = ""
    two = parse_records(records, "facts.json")
    assert len(two) == 40 and [two.index(one) for one in two if isinstance(one, OddRecord)] == [3, 7]
    records[9]["requested_rewrite"]["subject"] = ""
    with pytest.raises(FactError, match=r"facts.json: 3 of 40 records are odd, more than one in twenty \(2 times: "):
        parse_records(records, "facts.json")
    with pytest.raises(FactError, match=r"^facts.json: record 0: rel_prompts\[0\] is empty; give it a text$"):
        parse_records(records[3:7], "facts.json")


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({str(record["case_id"]): record for record in RECORDS}).encode(),
        "\n".join(map(json.dumps, RECORDS)).encode(),
        b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(),
        json.dumps([record | {"case_id": str(record["case_id"])} for record in RECORDS]).encode(),
        json.dumps(
            {str(r["case_id"]): {key: value for key, value in r.items() if key != "case_id"} for r in RECORDS}
        ).encode(),
    ],
    ids=["by id", "lines", "byte-order mark", "numbers as text", "ids as keys alone"],
)
def test_harmless_spellings_are_read_as_what_they_mean(content: bytes) -> None:
    assert parse_records(decode_records(content, "x"), "x") == parse_facts(RECORDS, "x")


def test_odd_records_are_counted_in_a_run(tmp_path: Path, capsys) -> None:
    """In their place in the order, with file, record, field and reason; the others have the numbers they have alone."""
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(changed(1, rel_prompts=[""])))
    data = own(path)
    assert data.case_ids == [record["case_id"] for record in RECORDS]
    assert "1 odd records are failed cases" in data.note
    command = ["run", "smoke", "--model", "world", "--methods", "ft,mend", "--only", "table2", "--limit", "3"]
    assert call([*command, "--facts", str(path), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "ft-entity: 3/3 cases (1 failed)" in out and "not computed: 3 of 9 cases failed" in out
    with reading(tmp_path / "run") as store:
        for unit in store.info().plan.units:
            states = {record.case_id: (record.status, record.reason) for record in store.records(unit)}
            assert states[RECORDS[1]["case_id"]] == ("failed", "record 1: rel_prompts[0] is empty; give it a text")
            assert [status for status, _ in states.values()].count("done") == 2


# CounterFact's case 4402 as published: its first paraphrase does not hold the subject.
CASE_4402 = {
    "case_id": 4402,
    "requested_rewrite": {
        "prompt": "{} debuted on",
        "relation_id": "P449",
        "target_new": {"str": "CBS", "id": "Q43380"},
        "target_true": {"str": "MTV", "id": "Q43359"},
        "subject": "Singled Out",
    },
    "paraphrase_prompts": [
        "No one on the ground was injured.  v",
        "The sex ratio was 1063. Singled Out is to debut on",
    ],
}


def test_a_paraphrase_without_its_subject_is_scored_as_released(tiny) -> None:
    (fact,) = parse_facts([CASE_4402], "counterfact.json")
    (score,) = score_cases(tiny("tiny-gpt2"), [fact])
    assert len(score.views["entity"].prompts["generality"]) == 2


def test_requests_are_read_as_a_run_s_facts_are(tmp_path: Path) -> None:
    """One reader: JSON lines and records by id are as good for kloc edit and score as for a run."""
    records = RECORDS[:2]
    plain, lines, by_id = (tmp_path / name for name in ("plain.json", "lines.jsonl", "by_id.json"))
    plain.write_text(json.dumps(records))
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    by_id.write_text(json.dumps({record["case_id"]: record for record in records}))
    assert read_facts(plain) == read_facts(lines) == read_facts(by_id)
