"""kloc facts check, new and convert, as a user types them."""

import json
from pathlib import Path

import pytest

from artifact.cli import call
from artifact.evaluation.token_lengths import _range
from artifact.sources.catalogue import NEW_FACTS, WORLD

REFERENCE = Path(__file__).parent / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"
DOCUMENT = (Path(__file__).parents[1] / "docs" / "facts.md").read_text()
EASYEDIT = {"case_id": 4, "prompt": "The twin city of Lyon is", "target_new": "Manila", "subject": "Lyon",
            "ground_truth": "Beirut", "rephrase_prompt": "Lyon's twin city is", "locality_prompt": "Its twin city is",
            "locality_ground_truth": "Rome"}  # fmt: skip


def kloc(*words: object) -> int:
    return call([str(word) for word in words])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("easyedit.json").write_text(json.dumps([EASYEDIT, EASYEDIT | {"case_id": 5, "subject": "Nice"}]))
    Path("world.json").write_text(json.dumps(json.loads((WORLD / "facts.json").read_text())[:3]))


def test_new_facts_are_printed_or_written_and_pass_the_check(capsys) -> None:
    assert kloc("facts", "new") == 0
    assert capsys.readouterr().out == NEW_FACTS.read_text()
    assert kloc("facts", "new", "--out", "own.json") == 0
    assert Path("own.json").read_bytes() == NEW_FACTS.read_bytes()
    assert kloc("facts", "check", "own.json") == 0
    said = capsys.readouterr().out
    assert said.startswith("own.json: 2 records, 2 can be used; faults: 0\n")
    assert "one record an edit: " in said and "all records in one edit, relation perspective: ft" in said


def test_a_fault_is_a_line_and_the_exit_code_is_two(capsys) -> None:
    records = json.loads(NEW_FACTS.read_text())
    records[1]["requested_rewrite"]["prompt"] = "Marie Curie's mother tongue \x1b[31mis"
    Path("own.json").write_text("\n".join(map(json.dumps, records)))
    assert kloc("facts", "check", "own.json") == 2
    out, err = capsys.readouterr()
    assert "record 1, case 1: requested_rewrite.prompt must hold exactly one {} for the subject, got " in out
    assert "own.json: 2 records, 1 can be used; faults: 1" in out and "\x1b" not in out
    assert err == "kloc: own.json: 1 of 2 records cannot be used; correct them or take them out\n"


def test_many_faults_are_cut_short(capsys) -> None:
    Path("own.json").write_text(json.dumps([{"requested_rewrite": {}}] * 30))
    assert kloc("facts", "check", "own.json") == 2
    out = capsys.readouterr().out
    assert out.count("\nrecord ") == 20 and "\nand 10 more\n" in out


def test_a_model_s_vocabulary_positions_and_answers_are_checked(capsys) -> None:
    assert kloc("facts", "check", "world.json", "--model", "world") == 0
    said = capsys.readouterr().out
    assert "world answers 3 of 3 facts with the true object before any edit" in said
    entity, relation = (line for line in said.splitlines() if "perspective, tokens: " in line)
    asked = [one["requested_rewrite"] for one in json.loads(Path("world.json").read_text())]
    # In the world's vocabulary every word is a token.
    counts = [len(one["prompt"].format(one["subject"]).split()) for one in asked]
    assert entity == f"entity perspective, tokens: prompts {_range(counts)}, new answers 1, old answers 1"
    assert relation.startswith("relation perspective, tokens: prompts ") and relation.endswith(", old answers 1")
    assert kloc("facts", "new", "--out", "own.json") == kloc("facts", "check", "own.json") == 0
    assert kloc("facts", "check", "own.json", "--model", "world") == 2
    assert (
        "the word 'Mount' in 'Mount Kilimanjaro is located in the country of' is not in this model's vocabulary"
        in capsys.readouterr().out
    )
    (record, *_) = json.loads((REFERENCE / "facts.json").read_text())
    Path("long.json").write_text(json.dumps(record | {"neighborhood_prompts": ["long " * 2000]}))
    assert kloc("facts", "check", "long.json", "--model", TINY) == 2
    assert "positions; shorten it" in capsys.readouterr().out


def test_another_layout_is_converted_and_then_scored(capsys) -> None:
    assert kloc("facts", "check", "easyedit.json") == 2
    assert "`kloc facts convert FILE --from easyedit --out NEW`" in capsys.readouterr().err
    assert kloc("facts", "convert", "easyedit.json", "--from", "easyedit", "--out", "own.json") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 of 2 records converted: own.json"
    assert said[1] == "1 left out: subject ... is not in the prompt ...; give one that occurs in it"
    assert said[2].startswith("record 1: subject 'Nice' is not in the prompt")
    assert said[3:5] == ["with a rephrasing: 1 of 1 records", "with neighbours: 0 of 1 records"]
    assert said[5].startswith("prompts about other facts left out") and said[5].endswith(": 1")
    assert kloc("facts", "check", "own.json") == 0
    assert kloc("score", "--model", TINY, "--cases", "own.json") == 0
    assert "1 case, unedited" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("check absent.json", "absent.json: cannot be read"),
        ("check .", "cannot be read"),
        ("check empty.json", "holds no record"),
        ("check text.json", "is not valid JSON"),
        ("check world.json --model absent", "absent"),
        ("check world.json --device nothing --model world", "nothing"),
        ("convert easyedit.json --from zsre --out own.json", "no record can be converted from zsre's layout"),
        ("convert empty.json --from zsre --out own.json", "it holds none"),
        ("convert easyedit.json --from lre --out own.json", "easyedit"),
        ("convert easyedit.json --from easyedit --out easyedit.json", "would take the place"),
        ("convert easyedit.json --from easyedit --out world.json/own.json", "cannot be written"),
        ("convert easyedit.json --from easyedit", "--out"),
        ("new --out world.json/own.json", "cannot be written"),
    ],
)
def test_bad_input_is_one_line(words: str, says: str, tmp_path, capsys) -> None:
    Path("empty.json").write_text("[]")
    Path("text.json").write_text("text")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert kloc("facts", *words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_document_s_example_runs_from_the_template_to_the_scores(capsys, few_steps) -> None:
    (block,) = (one for one in DOCUMENT.split("```\n") if one.startswith("kloc facts new"))
    for line in block.splitlines():
        assert kloc(*line.replace("gpt2", str(TINY)).split()[1:]) == 0, line
    assert "all records in one edit, relation perspective: ft" in capsys.readouterr().out
    assert Path("edit.safetensors").exists() and Path("results").is_dir()


def test_the_document_s_way_from_a_spreadsheet_ends_in_records() -> None:
    Path("own.csv").write_text("subject,prompt,new,true\nLyon,The twin city of {} is,Manila,Beirut\n", "utf-8-sig")
    exec(compile(DOCUMENT.partition("```python\n")[2].partition("```")[0], "docs/facts.md", "exec"), {})
    assert kloc("facts", "check", "own.json") == 0
