"""The protocols and their switches: single defects corrected, and how a run that does so is told apart."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cheap import description
from pieces import pieces

from artifact.cli import call
from artifact.editing.objective import fact_row, objective
from artifact.editing.protocol import (
    PROTOCOLS,
    SWITCHES,
    corrected_switches,
    protocol_of,
    protocol_part,
    protocol_words,
)
from artifact.errors import PromptError, RunError, SettingError
from artifact.facts.fact import Fact
from artifact.lm.tokens import Tokens
from artifact.plans.paper import SMOKE
from artifact.reporting.report import repeat_command
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_name
from artifact.runs.status import run_status, status_lines
from artifact.runs.store import begin, reading, writing

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "protocol.md"


def test_a_protocol_is_all_its_switches() -> None:
    """Everything a switch can name is on as released and off as corrected."""
    assert all(PROTOCOLS["released"].switches().values())
    assert not any(PROTOCOLS["corrected"].switches().values())
    assert tuple(PROTOCOLS["released"].switches()) == SWITCHES


def test_every_switch_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    assert [switch for switch in SWITCHES if f"| `{switch}` |" not in text] == []


@pytest.mark.parametrize("switch", SWITCHES)
def test_one_switch_is_corrected_and_the_others_are_not(switch: str) -> None:
    found = protocol_of("released", [switch])
    assert found.name == "released"
    assert found.switches() == PROTOCOLS["released"].switches() | {switch: False}
    assert corrected_switches(found.name, found.switches()) == [switch]
    assert protocol_words(found.name, found.switches()) == f"released, but for {switch} (corrected)"


def test_a_protocol_by_its_name_alone() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol_of(name) == protocol
        assert corrected_switches(name, protocol.switches()) == []
        assert protocol_words(name, protocol.switches()) == name
    assert protocol_of("released", SWITCHES).switches() == PROTOCOLS["corrected"].switches()


@pytest.mark.parametrize(
    ("name", "correct", "says"),
    [
        ("paper", [], "protocol 'paper' is unknown; expected one of released, corrected"),
        ("released", ["kn"], "--correct 'kn' is not a switch; expected one of removal_without_space, .*, tf32"),
        ("corrected", ["tf32"], "give one of the two"),
    ],
)
def test_what_cannot_be_corrected(name, correct, says) -> None:
    with pytest.raises(SettingError, match=says):
        protocol_of(name, correct)


def test_a_run_with_corrected_switches_has_a_folder_of_its_own() -> None:
    one, two, every = (Asked("world", correct=names) for names in (("tf32",), ("tf32", "kn_undone"), SWITCHES))
    names = [run_name(SMOKE, "world", asked) for asked in (Asked("world"), one, two, every)]
    assert names[:3] == ["smoke-world", "smoke-world-correct-tf32", "smoke-world-correct-kn_undone+tf32"]
    assert names[3].startswith(f"smoke-world-correct-{len(SWITCHES)}-") and len(names[3]) < 60
    assert protocol_part(SWITCHES[1:]) != protocol_part(SWITCHES)
    assert protocol_part(("tf32", "kn_undone", "tf32")) == protocol_part(("kn_undone", "tf32"))


def test_a_run_from_before_a_switch_followed_the_released_code(tmp_path: Path) -> None:
    """It is resumed under the released protocol, and not where the new switch is corrected."""
    every = PROTOCOLS["released"].switches()
    older = {name: on for name, on in every.items() if name != "target_as_text"}
    plain = msgspec.structs.replace(description(), switches=every)
    with writing(tmp_path / "run") as store:
        begin(store, msgspec.structs.replace(plain, switches=older))
    with writing(tmp_path / "run") as store:
        begin(store, plain)
        corrected = protocol_of("released", ["target_as_text"]).switches()
        with pytest.raises(RunError, match="another switches target as text"):
            begin(store, msgspec.structs.replace(plain, switches=corrected))


def test_another_runs_folder_is_refused_and_status_tells(tmp_path: Path) -> None:
    """A journal of one set of switches is not resumed with another."""
    plain = msgspec.structs.replace(description(), switches=PROTOCOLS["released"].switches())
    other = msgspec.structs.replace(plain, switches=protocol_of("released", ["tf32"]).switches())
    with writing(tmp_path / "run") as store:
        begin(store, other)
    with writing(tmp_path / "run") as store, pytest.raises(RunError, match="another switches tf32"):
        begin(store, plain)
    with reading(tmp_path / "run") as store:
        assert "protocol released, but for tf32 (corrected)" in status_lines(run_status(store), 0.0)[0]
    assert repeat_command(other).endswith("--correct tf32") and "--correct" not in repeat_command(plain)


def test_a_run_corrects_one_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kloc run --correct kn_undone scores the edited model, and everything that the run leaves says so."""
    monkeypatch.chdir(tmp_path)
    command = ["run", "smoke", "--model", "world", "--only", "table1", "--methods", "kn", "--limit", "1"]
    assert call([*command, "--correct", "kn_undone"]) == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name == "smoke-world-table1-kn-correct-kn_undone"
    info = json.loads((folder / "run.json").read_text())
    assert info["protocol"] == "released" and [key for key, on in info["switches"].items() if not on] == ["kn_undone"]
    with reading(folder) as store:
        (record,) = store.records(next(unit for unit in store.info().plan.units if unit.method == "kn"))
    assert record.payload["norm"] > 0 and "undone" not in record.payload
    page, text = ((folder / "report" / f"report.{form}").read_text() for form in ("html", "md"))
    assert "released, but for kn_undone (corrected)" in page and "KN, undone" not in page
    assert "--correct kn_undone" in text
    verdict = json.loads((folder / "report" / "verdict.json").read_text())
    assert verdict["runs"][0]["corrected"] == ["kn_undone"]


@pytest.mark.parametrize(
    "command",
    [
        ["smoke", "--model", "world"],
        ["edit", "--model", "world", "--method", "kn", "--request", "absent.json", "--out", "e.safetensors"],
        ["trace", "--model", "world", "--prompt", "p", "--subject", "s"],
    ],
)
def test_an_unknown_switch_is_one_line_before_anything_else(command, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for options, says in (
        (["--correct", "kn_undone,nonsense"], "--correct 'nonsense' is not a switch; expected one of"),
        (["--correct", "tf32", "--protocol", "corrected"], "give one of the two"),
    ):
        assert call([*command, *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["released", "corrected"])
def test_a_target_cut_inside_a_character(name: str, tiny) -> None:
    """As released its parts are decoded and read again, so that every token is scored one place late; corrected, the
    ids stand there themselves."""
    model = tiny("tiny-gpt2")
    view = Fact(0, "France", "P36", "The capital of {} is", "Paris", "東京", (), (), None, None, None, ()).view(
        "entity"
    )
    target = tuple(model.tokens.continuation(" 東京"))
    prompt = model.tokens.encode("The capital of France is").ids
    (row,) = objective(model, view, ["{}"], [], PROTOCOLS[name]).rows
    if name == "corrected":
        assert row.ids == prompt + target[:-1]
    else:
        said = model.tokens.decode(target[:-1])
        assert row.ids == model.tokens.encode(f"The capital of France is{said}").ids
        assert "\ufffd" in said and len(row.ids) > len(prompt + target[:-1])
    assert row.target == target and row.lookup == 3


@pytest.mark.parametrize("name", ["released", "corrected"])
def test_a_target_of_text_is_the_same_in_both(name: str, model) -> None:
    view = Fact(0, "France", "P36", "The capital of {} is", "Paris", "New Delhi", (), (), None, None, None, ())
    (row,) = objective(model, view.view("entity"), ["It is said. {}"], [], PROTOCOLS[name]).rows
    whole = model.tokens.encode("It is said. The capital of France is New Delhi").ids
    assert (*row.ids, row.target[-1]) == whole and len(row.target) > 1


def test_sentence_piece_targets_are_ids_whatever_the_protocol(tiny) -> None:
    """Its decoder drops the space before a text: as text, "New" would be glued to the prompt's last word."""
    tokens = Tokens(pieces("first"), 64)
    model = replace(tiny("tiny-gpt2"), tokens=tokens)
    view = Fact(0, "France", "P36", "The capital of {} is", "Paris", "New Delhi", (), (), None, None, None, ())
    for protocol in PROTOCOLS.values():
        (row,) = objective(model, view.view("entity"), ["It is said. {}"], [], protocol).rows
        whole = tokens.encode("It is said. The capital of France is New Delhi").ids
        assert (*row.ids, row.target[-1]) == whole and len(row.target) > 1


def test_a_target_read_shorter_than_its_ids_is_refused(tiny, monkeypatch) -> None:
    """Text that is read as fewer tokens would be scored inside the prompt, before the subject."""
    model = tiny("tiny-gpt2")
    target = model.tokens.continuation(" 東京" * 4)
    with pytest.raises(PromptError, match="--correct target_as_text appends the ids"):
        fact_row(model, "{} is", "France", target, written=lambda ids: "!")
