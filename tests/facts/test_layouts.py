"""Files of other projects are named by their fields, wherever facts are read."""

import json
from pathlib import Path

import pytest

from artifact.cli import call
from artifact.errors import FactError
from artifact.facts.datasets.own import own
from artifact.facts.layouts import decode_records
from artifact.facts.records import parse_facts, parse_statements
from artifact.sources.catalogue import WORLD

KNOWEDIT = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "ground_truth": "Warsaw",
    "portability": {},
    "locality": {},
    "rephrase_prompt": "x",
}
FILES = {
    "KnowEdit's": KNOWEDIT,
    "EasyEdit's": {"case_id": 0, "prompt": "A is", "target_new": "B", "subject": "A", "ground_truth": "C"},
    "zsRE's": {"subject": "A", "src": "Who?", "pred": "B", "rephrase": "W?", "alt": "C", "answers": ["D"], "loc": "nq"},
    "MQuAKE's": {"case_id": 1, "requested_rewrite": [{"prompt": "{} is", "subject": "A"}], "questions": ["Who?"]},
    "RippleEdits'": {"example_type": "popular", "edit": {"prompt": "A is B."}},
    "LRE's": {"name": "capital", "prompt_templates": ["{} is"], "samples": [{"subject": "A", "object": "B"}]},
    "WikiBio": {"text": "t", "labels": "l", "concept": "c", "locality": {}},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("listed", [True, False])
def test_another_layout_is_named(name: str, listed: bool, tmp_path: Path) -> None:
    records = [FILES[name]] if listed else FILES[name]
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    for read in (
        lambda: parse_facts(records, str(path)),
        lambda: parse_statements(records, str(path)),
        lambda: own(path),
    ):
        with pytest.raises(FactError, match="facts.json: no edit case in this file: it looks like") as error:
            read()
        assert name in str(error.value) and "\n" not in str(error.value)
        remedy = {f"{one}'s": f"--from {one.lower()}" for one in ("KnowEdit", "EasyEdit", "zsRE", "LRE")}
        assert remedy.get(name, "see docs/facts.md") in str(error.value)


def test_known_facts_with_other_fields_are_known_facts() -> None:
    (found,) = parse_statements([{"subject": "A", "prompt": "A is", "answers": ["b"], "src": "x"}], "f")
    assert found.subject == "A"


def test_a_run_of_another_layout_ends_in_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("knowedit.json").write_text(json.dumps([KNOWEDIT]))
    for command in (
        ["smoke", "--model", "world", "--facts", "knowedit.json"],
        ["score", "--model", "world", "--cases", "knowedit.json"],
    ):
        assert call(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "no edit case in this file" in error and "KnowEdit" in error
    assert [path.name for path in tmp_path.iterdir()] == ["knowedit.json"]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("lines", [1, 2])
def test_a_name_given_twice_is_refused_however_the_file_is_laid_out(listed: bool, lines: int) -> None:
    """The decoder takes the last value in silence, so that an edit would be another."""
    record = json.dumps({"case_id": 1, "prompt": "p"})
    twice = record.replace('"p"', '"p", "prompt": "q"')
    text = f"[{twice}]" if listed else "\n".join([twice, *[record] * (lines - 1)])
    with pytest.raises(FactError, match=r"holds 'prompt' twice in one object; keep one of them"):
        decode_records(text.encode(), "facts")


@pytest.mark.parametrize("digits", ["²", "٣", "9" * 5000, "1" * 19])
def test_an_id_of_odd_digits_is_no_number(digits: str, tmp_path: Path) -> None:
    record = json.loads((WORLD / "facts.json").read_text())[0]
    bare = {key: value for key, value in record.items() if key != "case_id"}
    ((found,),) = (decode_records(json.dumps(one).encode(), "facts") for one in [{digits: bare}])
    assert "case_id" not in found
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([record | {"case_id": digits}]))
    assert call(["facts", "check", str(path)]) in (0, 2)
    path.write_text(json.dumps([{"known_id": digits, "subject": "A", "prompt": "A is", "attribute": "B"}]))
    assert call(["facts", "check", str(path)]) in (0, 2)
