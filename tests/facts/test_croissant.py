"""Facts described to machines: hash and size of the file, and a path to every field that a record has."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from artifact.cli import call
from artifact.facts.croissant import PUBLISHED, croissant_json
from artifact.sources.catalogue import PLAIN_SOURCES, WORLD


def found(record: object, path: str) -> object:
    """What a JSON path such as $[*].requested_rewrite.subject finds in one record."""
    for part in path.removeprefix("$[*].").split("."):
        assert isinstance(record, dict)
        record = record[part]
    return record


def test_the_world_s_description_fits_its_file() -> None:
    content = (WORLD / "facts.json").read_bytes()
    described = json.loads(croissant_json("world"))
    (file,) = described["distribution"]
    assert file["sha256"] == sha256(content).hexdigest() and file["contentSize"] == f"{len(content)} B"
    assert file["contentUrl"] == "facts.json"
    (records,) = described["recordSet"]
    fields = {one["name"]: one["source"]["extract"]["jsonPath"] for one in records["field"]}
    first = json.loads(content)[0]
    assert {name: found(first, path) for name, path in fields.items()} == {
        "case_id": 0,
        "subject": "Zikim Dinuv",
        "prompt": "The birthplace of {} is",
        "relation_id": "W01",
        "target_true": "Kikosburg",
        "target_new": "Suzisford",
    }


def test_published_facts_are_described_as_they_are_pinned() -> None:
    assert PUBLISHED == ("counterfact", "known", "lre")
    for name in PUBLISHED:
        files, pinned = json.loads(croissant_json(name))["distribution"], PLAIN_SOURCES[name].files
        assert [(file["sha256"], file["contentUrl"]) for file in files] == [(one.sha256, one.urls[0]) for one in pinned]
        assert all(file["sha256"] for file in files)


def test_every_file_of_lre_has_its_records() -> None:
    described = json.loads(croissant_json("lre"))
    assert len(described["recordSet"]) == len(described["distribution"]) == 26
    ids = [one["@id"] for one in (*described["recordSet"], *(f for r in described["recordSet"] for f in r["field"]))]
    assert len(set(ids)) == len(ids) == 26 * 3
    for file, records in zip(described["distribution"], described["recordSet"], strict=True):
        for field in records["field"]:
            assert field["source"]["fileObject"]["@id"] == file["@id"]
            assert field["source"]["extract"]["jsonPath"] == f"$.samples[*].{field['name']}"


def test_own_facts_are_described_with_the_fields_they_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.json"
    own.write_text('[{"known_id": 3, "subject": "Ada", "prompt": "Ada was born in", "attribute": "London"}]')
    assert call(["facts", "describe", str(own), "--out", str(tmp_path / "own.croissant.json")]) == 0
    described = json.loads((tmp_path / "own.croissant.json").read_bytes())
    assert [one["name"] for one in described["recordSet"][0]["field"]] == ["known_id", "subject", "prompt", "attribute"]
    assert described["license"] == "not stated"
    own.write_text('{"a": 1}')
    assert call(["facts", "describe", str(own)]) == 2
    assert "holds no list of records" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [True, False])
def test_only_a_list_is_described(lines: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path into a JSON list would find nothing in lines, or in records by id."""
    records = json.loads((WORLD / "facts.json").read_text())[:3]
    path = tmp_path / "facts.json"
    by_id = {str(one.pop("case_id")): one for one in json.loads(json.dumps(records))}
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(by_id))
    assert call(["facts", "describe", str(path), "--out", str(tmp_path / "d.json")]) == 2
    assert "is no JSON list, whose fields alone can be described" in capsys.readouterr().err
