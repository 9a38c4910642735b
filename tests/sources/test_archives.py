"""The authors' archive, whose inside nobody has seen: any layout ends in its records or in one line."""

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from filehost import hosting

from artifact.cli import call
from artifact.errors import FactError
from artifact.facts.records import read_facts
from artifact.sources import download
from artifact.sources.catalogue import PLAIN_SOURCES, SOURCES
from artifact.sources.download import Patience
from artifact.sources.fetch import path_of
from artifact.sources.lock import recorded
from artifact.sources.unpack import records_of
from artifact.sources.verify import examine

REFERENCE = Path(__file__).parents[1] / "reference"
RECORDS = json.loads((REFERENCE / "facts.json").read_text())[:3]
KNOWN = [{"known_id": 0, "subject": "is the capital of", "prompt": "Paris is the capital of"}]
PLAIN = json.loads(json.dumps(RECORDS))
for one in PLAIN:
    del one["rel_prompts"]
    for field in ("relation", "add_rel_prompt", "rm_rel_prompt"):
        del one["requested_rewrite"][field]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A file host under the authors' address."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=5, tries=1, first_wait=0.01))
    with hosting() as served:
        monkeypatch.setenv("KLOC_MIRROR", served.url)
        yield served


def published(host, **members: bytes) -> None:
    """An archive of these members; a dot and a slash in a name are written out."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    for url in PLAIN_SOURCES["relation"].files[0].urls:
        host.files[f"/{url.split('://')[1]}"] = out.getvalue()


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


LAYOUTS = {
    "as the authors' code names it": {"rel_data/rel_counterfact.json": as_json(RECORDS)},
    "another name and folder": {"a/b/counterfact_with_relations": as_json(RECORDS)},
    "records by id": {"x.json": as_json({str(r["case_id"]): r for r in RECORDS})},
    "under one name": {"x.json": as_json({"version": 1, "data": RECORDS})},
    "JSON lines": {"x.jsonl": b"\n".join(as_json(r) for r in RECORDS) + b"\n"},
    "a byte-order mark": {"x.json": b"\xef\xbb\xbf" + as_json(RECORDS)},
    "beside plain CounterFact of the same name": {
        "a/rel_counterfact.json": as_json(PLAIN),
        "b/rel_counterfact.json": as_json(RECORDS),
    },
    "the longest of two": {"a.json": as_json(RECORDS[:1]), "b.json": as_json(RECORDS)},
    "junk beside it": {"README.md": b"# data", "z.bin": bytes(range(256)), "x.json": as_json(RECORDS)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_ends_in_the_records(name: str, host, capsys) -> None:
    published(host, **LAYOUTS[name])
    assert call(["fetch", "relation"]) == 0
    facts = read_facts(path_of("rel_counterfact"))
    assert [fact.case_id for fact in facts] == [record["case_id"] for record in RECORDS]
    assert all(fact.relation for fact in facts)
    taken = [line for line in capsys.readouterr().out.splitlines() if "by what its records hold" in line]
    assert len(taken) == (0 if "rel_counterfact" in "".join(LAYOUTS[name]) else 1)
    # The known file is optional: tables do without it.
    with pytest.raises(FactError, match="rel_known_1000.json is not in the cache"):
        path_of("rel_known")
    assert call(["fetch", "relation", "--check"]) == 0
    asked = len(host.asked)
    assert call(["fetch", "relation"]) == 0 and len(host.asked) == asked


def test_the_known_file_is_found_by_its_records(host) -> None:
    published(host, **{"edit": as_json(RECORDS), "trace": as_json(KNOWN)})
    assert call(["fetch", "relation"]) == 0
    assert json.loads(path_of("rel_known").read_bytes()) == KNOWN


def test_of_files_with_equally_many_records_its_own_name_is_taken(host) -> None:
    """The plain known facts have a subject and a prompt, too."""
    plain = [KNOWN[0] | {"subject": "Paris"}]
    published(
        host, **{"edit": as_json(RECORDS), "known_1000.json": as_json(plain), "rel_known_1000.json": as_json(KNOWN)}
    )
    assert call(["fetch", "relation"]) == 0
    assert json.loads(path_of("rel_known").read_bytes()) == KNOWN


def test_an_archive_without_such_records_is_kept_and_listed(host, capsys) -> None:
    """The same line each time, with what is inside and what to do; a new archive is taken once the old one is gone."""
    published(host, **{"rel_counterfact.json": as_json(PLAIN), "notes.txt": b"hello"})
    for _ in range(2):
        assert call(["fetch", "relation"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "no file in it has records with requested_rewrite.relation.strs" in error
        assert "rel_counterfact.json (3 records with case_id, " in error and "notes.txt (no records)" in error
        assert "run with --relation-source templates, or remove it" in error
    archive = Path(os.environ["KLOC_CACHE"]) / "relation" / "rel_data.zip"
    assert archive.is_file() and not list(archive.parent.glob("*.part"))
    archive.unlink()
    published(host, **LAYOUTS["another name and folder"])
    assert call(["fetch", "relation"]) == 0


def test_a_damaged_archive_is_one_line_and_fetched_again(host, capsys) -> None:
    published(host, **LAYOUTS["another name and folder"])
    (name,) = [key for key in host.files if key.endswith("rel_data.zip")]
    good = host.files[name]
    middle = len(good) // 2
    for damaged in (good[:-30], b"", b"<html>not found</html>", good[:middle] + bytes(40) + good[middle + 40 :]):
        host.files[name] = damaged
        assert call(["fetch", "relation"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "rel_data.zip" in error
        folder = Path(os.environ["KLOC_CACHE"]) / "relation"
        assert not [path for path in folder.rglob("*") if path.suffix in (".zip", ".part", ".json")]
    host.files[name] = good
    assert call(["fetch", "relation"]) == 0


@pytest.mark.parametrize("content", [b"", b"3", b"[", b"{}", b"\xff\xfe", b'{"a": [1], "b": [2]}', b"[" * 100_000])
def test_what_holds_no_records(content: bytes) -> None:
    assert not records_of(content)


def test_only_the_address_that_the_authors_named() -> None:
    (file,) = PLAIN_SOURCES["relation"].files
    assert len(file.urls) == 1 and file.urls[0].endswith("weiyifan1023/RaKE/main/rel_data.zip")


def test_one_record_on_one_line_is_one_record() -> None:
    assert records_of(as_json(RECORDS[0])) == [RECORDS[0]]


def test_a_damaged_file_that_nobody_needs_refuses_no_other(host, capsys) -> None:
    published(host, **{"x.json": as_json(RECORDS), "z.txt": b"stored text" * 50})
    (name,) = [key for key in host.files if key.endswith("rel_data.zip")]
    content = bytearray(host.files[name])
    with zipfile.ZipFile(BytesIO(content)) as archive:
        at = archive.getinfo("z.txt").header_offset + 30 + len("z.txt")
    content[at] ^= 255
    target = Path(os.environ["KLOC_CACHE"]) / "relation" / "rel_data.zip"
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    assert call(["fetch", "relation"]) == 0
    assert len(read_facts(path_of("rel_counterfact"))) == len(RECORDS)
    said = "".join(capsys.readouterr())
    assert "rel_data.zip: damaged and left out: z.txt " in said and "; rel_known_1000.json may be missing" in said


def test_the_layout_of_another_tool_is_named(tmp_path, capsys) -> None:
    path = tmp_path / "facts.json"
    record = {"case_id": 0, "prompt": "Paris lies in", "subject": "Paris", "target_new": "Italy"}
    path.write_bytes(as_json([record]))
    assert call(["run", "smoke", "--model", "world", "--facts", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "no edit case in this" in error and "EasyEdit" in error and error.count("\n") == 1


def folder() -> Path:
    return Path(os.environ["KLOC_CACHE"]) / "relation"


def test_what_was_taken_out_is_recorded_and_made_again(host) -> None:
    """A member that is damaged or gone is taken out of the archive again, without the network."""
    published(host, **{"edit": as_json(RECORDS), "trace": as_json(KNOWN), "__MACOSX/edit": b"junk"})
    relation = PLAIN_SOURCES["relation"]
    assert call(["fetch", "relation"]) == 0
    archive = (folder() / "rel_data.zip").read_bytes()
    assert recorded("relation/rel_counterfact.json").made_from == hashlib.sha256(archive).hexdigest()
    assert [finding.state for finding in examine(relation)] == ["whole"] * 3
    (folder() / "rel_counterfact.json").write_bytes(b"[7]")
    (folder() / "rel_known_1000.json").unlink()
    assert [finding.state for finding in examine(relation)] == ["whole", "damaged"]
    asked = len(host.asked)
    assert call(["fetch", "relation"]) == 0 and len(host.asked) == asked
    assert [finding.state for finding in examine(relation)] == ["whole"] * 3


@pytest.mark.parametrize("name", ["../x.json", "/etc/x", "a\\..\\..\\x", "C:x"])
def test_a_path_out_of_the_archive_refuses_all_of_it(name: str, host, capsys) -> None:
    published(host, **{"x.json": as_json(RECORDS), name: b"1"})
    assert call(["fetch", "relation"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "names a path outside itself" in error
    assert "--relation-source templates" in error  # the archive may be like that each time
    assert {path.name for path in folder().rglob("*") if path.is_file()} <= {".lock"}
    assert recorded("relation/rel_data.zip") is None


@pytest.mark.parametrize("total", [1, 3])
def test_members_that_are_too_long_are_not_looked_into(total: int, host, capsys, monkeypatch) -> None:
    """Each by the limit of one, all together by a multiple of it."""
    size = len(as_json(RECORDS))
    relation = PLAIN_SOURCES["relation"]
    small = tuple(replace(member, limit=size * (2 if total > 1 else 1) - 1) for member in relation.members)
    monkeypatch.setitem(PLAIN_SOURCES, "relation", replace(relation, members=small))
    monkeypatch.setitem(SOURCES, "relation", replace(relation, members=small))
    monkeypatch.setattr("artifact.sources.unpack.TOTAL", 1)
    published(host, **{"a.txt": b"0" * (size if total > 1 else 1), "x.json": as_json(RECORDS)})
    assert call(["fetch", "relation"]) == 2
    assert "x.json (" in (error := capsys.readouterr().err) and "too long to look into" in error


def test_a_member_longer_than_it_says_is_refused(host, capsys) -> None:
    """The size in the archive's directory is a claim."""
    content = as_json(RECORDS)
    published(host, **{"x.json": content})
    (name,) = [key for key in host.files if key.endswith("rel_data.zip")]
    lying = host.files[name].replace(len(content).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != host.files[name]
    host.files[name] = lying
    assert call(["fetch", "relation"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (folder() / "rel_counterfact.json").exists()
