"""Records that cannot be used as they stand, from the command line: one line, or a failed case with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REFERENCE

from artifact.cli import call
from artifact.runs.store import reading

TINY = str(REFERENCE / "models" / "tiny-gpt2")
RECORDS = json.loads((REFERENCE / "facts.json").read_text())[:3]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes records to a file in the folder that the test stands in, with one record's fields (a dot leads in)
    changed."""
    monkeypatch.chdir(tmp_path)

    def file(records: list[dict], number: int = 0, **changes: Any) -> str:
        records = json.loads(json.dumps(records))
        for path, value in changes.items():
            *outer, last = path.split("__")
            place = records[number]
            for name in outer:
                place = place[name]
            place[last] = value
        Path("facts.json").write_text(json.dumps(records if len(records) > 1 else records[0]))
        return "facts.json"

    return file


def line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1
    return error


def filler(count: int) -> str:
    return "the " * count + RECORDS[1]["requested_rewrite"]["prompt"]


def long_record(tiny) -> dict[str, Any]:
    """Changes that make record 1's prompt fit the model, and its target not fit after it."""
    tokens = tiny("tiny-gpt2").tokens
    subject = RECORDS[1]["requested_rewrite"]["subject"]
    fits = [n for n in range(200) if len(tokens._plain(filler(n).replace("{}", subject))) <= tokens.limit]
    count = max(fits)
    return {
        "requested_rewrite__prompt": filler(count),
        "requested_rewrite__target_new": {"str": "New Delhi and other towns"},
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
    }


def test_prompt_and_target_longer_than_the_model(write, tiny, capsys, few_steps) -> None:
    """A record of its own is one line; in a run it is a failed case, and the others are stored."""
    path = write(RECORDS, 1, **long_record(tiny))
    assert call(["score", "--model", TINY, "--cases", path]) == 2
    error = line(capsys)
    assert f"case {RECORDS[1]['case_id']}: the prompt 'the the" in error
    assert "exceeds the model's 128 positions; shorten one of them" in error

    methods = ("rome", "memit", "ft", "kn")
    for method in methods[:3]:  # KN reads its targets at the prompt's own last token
        single = write(RECORDS[1:2], 0, **long_record(tiny))
        command = ["edit", "--model", TINY, "--method", method, "--request", single, "--out", "e.safetensors"]
        assert call([*command, "--protocol", "corrected"]) == 2
        assert "128 positions" in line(capsys)
    path = write(RECORDS, 1, **long_record(tiny))
    command = ["run", "smoke", "--model", TINY, "--facts", path, "--only", "table1", "--only", "table2", "--out", "run"]
    assert call([*command, "--methods", ",".join(methods), "--limit", "3"]) == 0
    with reading(Path("run")) as store:
        units = store.info().plan.units
        assert {unit.method for unit in units} == {"none", *methods}
        for unit in units:
            found = {record.case_id: record for record in store.records(unit)}
            assert [record.status for record in found.values()] == ["done", "failed", "done"]
            assert "128 positions" in found[RECORDS[1]["case_id"]].payload["reason"]


def test_two_records_that_contradict_each_other(write, capsys) -> None:
    other = json.loads(json.dumps(RECORDS[0]))
    other["case_id"] = 77
    other["requested_rewrite"]["target_new"]["str"] = "Tokyo"
    path = write([RECORDS[0], RECORDS[1], other])
    for method in ("memit", "ft", "mend"):
        command = ["edit", "--model", TINY, "--method", method, "--request", path, "--out", "e.safetensors"]
        assert call(command) == 2
        error = line(capsys)
        case = RECORDS[0]["case_id"]
        assert f"record 0 (case {case}) and record 2 (case 77) want 'Rome' and 'Tokyo'" in error, error
    # The relation perspective asks both for one relation, which is not a contradiction.
    assert call(["edit", "--model", TINY, "--method", "ft", "--request", path, "--out", "e.safetensors",
                 "--perspective", "relation"]) == 0  # fmt: skip


def test_a_subject_with_a_blank_is_refused_alike(write, capsys) -> None:
    path = write(RECORDS[:1], 0, requested_rewrite__subject="France ")
    edit = ["edit", "--model", TINY, "--method", "ft", "--request", path, "--out", "e.safetensors"]
    trace = ["trace", "--model", TINY, "--prompt", "The capital of France is", "--subject", "France "]
    for command in (edit, ["score", "--model", TINY, "--cases", path], trace):
        assert call(command) == 2
        assert "'France ' has blanks at its ends; write it without" in line(capsys)


def test_what_is_said_already_and_what_is_compared_with_itself(write, capsys) -> None:
    path = write(RECORDS[:1], 0, requested_rewrite__target_new={"str": "Paris"})
    assert call(["score", "--model", TINY, "--cases", path]) == 2
    assert "target_new.str and target_true.str are both 'Paris'; name two different objects" in line(capsys)

    rewrite = {"target_new": {"str": "Paris"}, "target_true": {"str": "Rome"}}
    path = write(RECORDS[:1], 0, **{f"requested_rewrite__{key}": value for key, value in rewrite.items()})
    Path("plain.json").write_text('["{}"]')
    hparams = {"layers": [1], "v_loss_layer": 5, "kl_factor": 0}
    Path("hparams.json").write_text(json.dumps(hparams))
    for method in ("rome", "memit"):
        assert call(["edit", "--model", TINY, "--method", method, "--request", path, "--prefixes", "plain.json",
                     "--hparams", "hparams.json", "--out", "e.safetensors"]) == 2  # fmt: skip
        assert "the model already says so: the loss was 0." in line(capsys)
    assert not Path("e.safetensors").exists()


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "says"),
    [
        ("In Francetown, the capital of France is", "France", None, "occurs more than once"),
        ("In Rome Rome is", "Rome", None, "occurs more than once"),
        ("In Rome Rome is", "Rome", "At {}", "does not open with the template"),
        ("In Francetown is", "France", None, "stands inside a word"),
        ("The capital of France is", "  ", None, "the subject is blank"),
        ("The capital of France is", "Spain", None, "subject 'Spain' is not in the prompt"),
    ],
)
def test_a_trace_of_a_place_that_is_not_clear(prompt, subject, template, says, capsys) -> None:
    given = [] if template is None else ["--template", template]
    assert call(["trace", "--model", "nowhere", "--prompt", prompt, "--subject", subject, *given]) == 2
    assert says in line(capsys)  # before any model is looked for


def test_a_template_says_which_place_is_meant(tmp_path: Path) -> None:
    found = []
    for number, template in enumerate(("In {}", "In Rome {}")):
        out = tmp_path / f"{number}.json"
        command = ["trace", "--model", TINY, "--prompt", "In Rome Rome is", "--subject", "Rome", "--template", template]
        assert call([*command, "--json", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    first, second = (one["span"] for one in found)
    assert [found[0]["tokens"][i] for i in (*first, *second)] == [" Rome", " Rome"] and second[0] == first[0] + 1


def test_labels_of_parts_of_characters(tmp_path: Path, capsys) -> None:
    out = tmp_path / "trace.json"
    command = ["trace", "--model", TINY, "--prompt", "法国的首都是\x1b[31m\n$", "--subject", "法国", "--json", str(out)]
    assert call(command) == 0
    said = capsys.readouterr().out
    assert "'<0xE6>'* " in said and "\ufffd" not in said and "\x1b" not in said and "\\x1b" in said
    tokens = json.loads(out.read_text())["tokens"]
    assert tokens[:3] == ["<0xE6>", "<0xB3>", "<0x95>"] and "\ufffd" not in "".join(tokens)
