"""kloc knockout as a user types it: golden numbers in its file, words for what cannot be, one line for a bad prompt."""

import json
from pathlib import Path

import numpy as np
import pytest

from artifact.cli import call

REFERENCE = Path(__file__).parent / "reference"
PROMPT = ["--prompt", "LeBron James plays the sport of", "--subject", "LeBron James"]


def command(name: str, start: str, end: str) -> list[str]:
    return ["knockout", "--model", str(REFERENCE / "models" / name), *PROMPT, "--from", start, "--to", end]


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gptj"])
@pytest.mark.parametrize(("end", "group"), [("subject", "subject"), ("relation", "nonsubject"), ("last", "last")])
def test_golden_numbers(name: str, end: str, group: str, tmp_path: Path, capsys) -> None:
    golden = np.load(REFERENCE / "knockout" / f"{name}_case15.npz")
    file = tmp_path / "k.json"
    assert call([*command(name, "last", end), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["before"] == pytest.approx(float(golden["base_score"]), abs=1e-5)
    np.testing.assert_allclose(found["after"], golden[f"scores_{group}_w9"], rtol=0, atol=1e-5)
    change = (golden[f"scores_{group}_w9"] - golden["base_score"]) / golden["base_score"]
    np.testing.assert_allclose(found["change"], change, rtol=0, atol=1e-4)
    assert (found["from"], found["to"], found["window"]) == ("last", end, 9)
    assert (found["subject"], found["relation"]) == ([0, 1], [2, 3, 4])
    out = capsys.readouterr().out
    assert "the published share of the depth is --window 1" in out
    assert "answer ' basketball'" in out and f"layer   2: {found['after'][2]:.4f}" in out


def test_edges_that_cannot_be_are_said(tmp_path: Path, capsys) -> None:
    file = tmp_path / "k.json"
    assert call([*command("tiny-gpt2", "subject", "relation"), "--window", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["edges"] == 0 and set(found["after"]) == {found["before"]}
    assert "does not exist, as a token sees only itself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"LeBron James": "Spain"}, "subject 'Spain' is not in the prompt"),
        ({"subject": "object"}, "object"),
        ({"LeBron James plays the sport of": "LeBron James and LeBron James"}, "occurs more than once"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(change: dict[str, str], says: str, capsys) -> None:
    assert call([change.get(word, word) for word in command("tiny-gpt2", "last", "subject")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
