"""Where data comes from: the paper's selection, the marks reporting relies on, and no source in another's place."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import artifact
from artifact.errors import FactError
from artifact.facts.dataset import OTHER_MODELS, PAPER, Data
from artifact.facts.datasets import DATASETS, OWN, built_in_for, default_for
from artifact.facts.datasets.counterfact import PAPER_CASES, counterfact
from artifact.facts.datasets.everyday import everyday
from artifact.facts.datasets.known import NoRelationWords, known, with_relation_words
from artifact.facts.datasets.own import own
from artifact.facts.datasets.world import world
from artifact.facts.fact import Fact
from artifact.sources.catalogue import SOURCES, file_named

ROOT = Path(artifact.__file__).parent.parent
PROTOCOL, COMMANDS = ((ROOT / name).read_text() for name in ("docs/protocol.md", "docs/commands.md"))


def record(case_id: int, relation: bool = False, relation_id: str = "P36") -> dict:
    subject, new, true = f"Land{case_id}", "Rome", "Paris"
    rewrite = {"prompt": "The capital of {} is", "relation_id": relation_id, "subject": subject,
               "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": true, "id": "Q2"}}  # fmt: skip
    found = {
        "case_id": case_id,
        "pararel_idx": 7 * case_id,
        "requested_rewrite": rewrite,
        "paraphrase_prompts": [f"So it was. {subject}, whose capital is", f"{subject}'s capital,"],
        "neighborhood_prompts": ["The capital of Gaul is"],
        "attribute_prompts": [],
        "generation_prompts": [f"{subject} is known for"],
    }
    if relation:
        rewrite["relation"] = {"strs": ["seat of government", "capital"]}
        rewrite["add_rel_prompt"] = f"The relation between {{}} and {new} is"
        rewrite["rm_rel_prompt"] = f"The relation between {{}} and {true} is"
        found["rel_prompts"] = [f"{subject} has to do with {new} as its"]
    return found


def known_record(number: int) -> dict:
    obj = ("Asia", "Europe")[number % 2]
    return {"known_id": number, "subject": f"Land{number}", "attribute": obj, "template": "{} belongs to the continent",
            "prediction": f" of {obj}", "prompt": f"Land{number} belongs to the continent of",
            "relation_id": "P30"}  # fmt: skip


def write(path: Path, records: object) -> Path:
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def plain(tmp_path) -> Path:
    return write(tmp_path / "template-like-name.json", [record(i) for i in (4, 0, 2)])


@pytest.fixture
def authors(tmp_path) -> Path:
    return write(tmp_path / "rel_counterfact.json", [record(i, relation=True) for i in (4, 0, 2)])


def ids(data: Data) -> list[int]:
    assert [s.case_id for s in data.statements] == [f.case_id for f in data.facts]
    return [fact.case_id for fact in data.facts]


def relation_names(facts: list[Fact]) -> set[str | None]:
    return {fact.relation for fact in facts}


def test_the_reconstruction(plain, authors) -> None:
    for path in (plain, authors):  # fields that the file has are not mixed with those built by rule
        assert ids(counterfact(path, "templates")) == [4, 0, 2]
        data = counterfact(path, "templates", by_id=True)
        assert ids(data) == [0, 2, 4]
        assert data.reconstructed and "template" in data.source and "CounterFact" in data.source
        assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert "all 3 records of the file by case_id, fewer than the paper's 7,500" in data.note
        assert relation_names(data.facts) == {"capital"}
        assert len(data.facts[0].view("relation").generality) >= 4


def test_the_authors_data(authors) -> None:
    assert ids(counterfact(authors, "authors")) == [4, 0, 2]
    data = counterfact(authors, "authors", by_id=True)
    assert ids(data) == [0, 2, 4]
    assert not data.reconstructed and "template" not in data.source and "authors" in data.source
    assert data.sha256 == hashlib.sha256(authors.read_bytes()).hexdigest()
    assert relation_names(data.facts) == {"seat of government"}
    assert data.facts[1].view("relation").generality == ("Land2 has to do with Rome as its",)


def test_nothing_stands_in_for_the_authors_data(plain, authors, tmp_path) -> None:
    for absent in (None, tmp_path / "absent.json"):
        with pytest.raises(
            FactError, match="relation data is not there .*`kloc fetch relation`, or give --relation-source"
        ):
            counterfact(absent, "authors")
    authors.write_bytes(plain.read_bytes())
    with pytest.raises(
        FactError, match="holds no relation fields: it is plain CounterFact under the name of the authors"
    ):
        counterfact(authors, "authors")
    half = [record(0, relation=True), record(1)]
    with pytest.raises(FactError, match="case 1 has no requested_rewrite.relation"):
        counterfact(write(authors, half), "authors")
    half[1] = {**record(1, relation=True), "rel_prompts": []}
    with pytest.raises(FactError, match="case 1 has no rel_prompts"):
        counterfact(write(authors, half), "authors")


def test_one_record_without_a_field_of_the_relation_is_a_failed_case(tmp_path) -> None:
    """Of twenty or more; what templates replace may be missing."""
    whole = [record(i, relation=True) for i in range(40)]
    for fields in ({"rel_prompts": []}, {"requested_rewrite": record(3)["requested_rewrite"]}):
        path = write(tmp_path / "rel_counterfact.json", [*whole[:3], whole[3] | fields, *whole[4:]])
        data = counterfact(path, "authors")
        (odd,) = data.odd
        assert odd.case_id == 3 and " is missing or empty" in odd.reason and data.case_ids == list(range(40))
        assert len(data.facts) == 39 and len(data.statements) == 40
        assert counterfact(path, "templates").odd == ()
    bare = write(tmp_path / "bare.json", [one | {"paraphrase_prompts": []} for one in whole])
    for arguments in ((bare, "authors"), (bare, "templates")):
        with pytest.raises(FactError, match="40 of 40 records are odd, .* paraphrase_prompts is missing"):
            counterfact(*arguments)


def test_absent_files_and_unknown_relations(tmp_path) -> None:
    for absent in (None, tmp_path / "absent.json"):
        with pytest.raises(
            FactError, match="CounterFact is not there .*`kloc fetch counterfact`, or give --facts known"
        ):
            counterfact(absent, "templates")
    with pytest.raises(FactError, match="known facts are not there .*`kloc fetch known`"):
        known(tmp_path / "absent.json")
    bad = write(tmp_path / "bad.json", [record(5, relation_id="P9999")])
    for build in (lambda: counterfact(bad, "templates"), lambda: own(bad, "templates")):
        with pytest.raises(FactError, match="bad.json: case 5: relation_id 'P9999' has no written name"):
            build()


def test_the_paper_s_selection_is_the_files_first_or_by_case_id(tmp_path) -> None:
    """As released the first records of the file, corrected those of the lowest case ids."""
    count = PAPER_CASES + 5
    path = write(tmp_path / "many.json", [record(i) for i in reversed(range(count))])
    data = counterfact(path, "templates", by_id=True)
    assert ids(data) == list(range(PAPER_CASES))
    assert f"the first 7,500 of {count:,} records by case_id" in data.note
    data = counterfact(path, "templates")
    assert ids(data) == list(range(5, count))[::-1]
    assert f"the first 7,500 of {count:,} records in the file's order" in data.note


def test_known_facts(tmp_path) -> None:
    path = write(tmp_path / "known_1000.json", [known_record(i) for i in (3, 1, 0, 2)])
    assert ids(known(path)) == [3, 1, 0, 2] == [statement.case_id for statement in known(path).statements]
    data = known(path, by_id=True)
    assert ids(data) == [0, 1, 2, 3]
    assert data.source.startswith("known facts, edit cases built from them") and "template" in data.source
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "4 edit cases from 4 known facts" in data.note
    assert {(f.object_true, f.object_new) for f in data.facts} == {("Asia", "Europe"), ("Europe", "Asia")}
    assert [statement.answer for statement in data.statements] == ["Asia", "Europe", "Asia", "Europe"]
    with pytest.raises(FactError, match="holds CounterFact-style records, not known facts"):
        known(write(tmp_path / "cf.json", [record(0)]))


def test_the_words_of_the_authors_relation_traces(tmp_path) -> None:
    """Found by id and prompt, as they stand; the noise is that of every record's words."""
    data = known(write(tmp_path / "known_1000.json", [known_record(i) for i in range(4)]))
    ids, prompts = [one.case_id for one in data.statements], [one.prompt for one in data.statements]
    words = [
        {"known_id": ids[0], "prompt": prompts[0], "subject": " is in"},
        {"known_id": str(ids[1]), "prompt": prompts[1], "subject": "in"},
        {"known_id": 99, "prompt": prompts[2], "subject": "other fact"},
        {"prompt": prompts[3], "subject": "is"},
        {"known_id": ids[0], "prompt": "another prompt", "subject": "is in"},
    ]
    found, all_words = with_relation_words(data, write(tmp_path / "rel_known_1000.json", words))
    assert [one.relation_words for one in found.statements] == [" is in", "in", None, "is"]
    assert all_words == [" is in", "in", "other fact", "is", "is in"]
    assert "relation traces corrupt the words of rel_known_1000.json" in found.note
    assert "leave out the 1 statements that it does not hold" in found.note
    by_id = write(tmp_path / "rel_known_1000.json", {str(i): row for i, row in enumerate(words)})
    assert with_relation_words(data, by_id)[0].statements == found.statements
    with pytest.raises(FactError, match="expected records with subject and prompt"):
        with_relation_words(data, write(tmp_path / "rel_known_1000.json", [{"prompt": "x"}]))
    plain = [known_record(i) for i in range(4)]
    with pytest.raises(NoRelationWords, match="rel_known_1000.json holds each statement's subject"):
        with_relation_words(data, write(tmp_path / "rel_known_1000.json", plain))


def test_own_files(plain, authors, tmp_path) -> None:
    bare = own(plain)
    assert ids(bare) == [4, 0, 2] and ids(own(plain, by_id=True)) == [0, 2, 4]
    assert not bare.reconstructed and "template" not in bare.source and "3 have no relation fields" in bare.note
    assert {len(fact.views()) for fact in bare.facts} == {1}
    built = own(plain, "templates")
    assert built.reconstructed and "template" in built.source and {len(fact.views()) for fact in built.facts} == {2}
    for kept in (own(authors), own(authors, "templates")):
        assert (
            not kept.reconstructed
            and "template" not in kept.source
            and relation_names(kept.facts) == {"seat of government"}
        )
    mixed = own(write(tmp_path / "mixed.json", [record(1), record(0, relation=True)]), "templates")
    assert [fact.relation for fact in mixed.facts] == ["capital", "seat of government"]
    assert mixed.reconstructed and "template" in mixed.source and "relation prompts of 1 built by rule" in mixed.note
    path = write(tmp_path / "mine.json", [known_record(i) for i in range(4)])
    assert "template" not in own(path).source and {len(f.views()) for f in own(path).facts} == {1}
    assert own(path, "templates").reconstructed and "template" in own(path, "templates").source
    statements = [{"subject": "Rome", "prompt": "Rome lies in"}]
    traced = own(write(path, statements), "templates")
    assert (len(traced.facts), len(traced.statements)) == (0, 1) and "template" not in traced.source


def test_what_comes_with_the_package() -> None:
    assert built_in_for("world") == world() and built_in_for("gpt2") == everyday()
    assert (len(world().facts), len(everyday().facts)) == (256, 24)
    for data in (world(), everyday()):
        assert ids(data) == list(range(len(data.facts)))
        assert "template" not in data.source
        assert len(data.sha256) == 64
        assert data.statements[0].answer == data.facts[0].object_true


def test_the_table() -> None:
    """Every use has one default, every file is one that is fetched, and the documents list what there is."""
    defaults = [use for one in DATASETS.values() for use in one.default_for]
    assert sorted(defaults) == sorted({PAPER, OTHER_MODELS, "world", "world-masked"})
    assert default_for("gpt2-xl", of_the_paper=True).name == "counterfact" and default_for("auto").name == "everyday"
    for name, one in {**DATASETS, "own": OWN}.items():
        assert one.name == name and one.traced in ("", *DATASETS)
        for key in (*one.keys("authors"), *one.keys("templates"), *filter(None, [one.relation_words])):
            assert file_named(key).source in SOURCES
        given = "FILE" if one is OWN else name
        assert re.search(rf"^\| [^|]*`--facts {given}`", PROTOCOL, re.MULTILINE), name
    assert f"[--facts {'|'.join(DATASETS)}|FILE]" in COMMANDS
