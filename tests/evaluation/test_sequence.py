"""Curves over many edits: each point is what the edits written by hand give, and the model is as it was."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from artifact.cli import call
from artifact.editing.editor import Editor
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import read_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import EditError, SettingError
from artifact.evaluation.score import score_cases
from artifact.evaluation.sequence import curve
from artifact.lm.device import Memory

REFERENCE = Path(__file__).parent.parent / "reference"
MEMORY = Memory(10**9)


def editor_of(model, method: str) -> Editor:
    hparams = METHODS[method].hparams_for("tiny-gpt2", 6)
    if hasattr(hparams, "v_num_grad_steps"):
        hparams = msgspec.structs.replace(hparams, v_num_grad_steps=4)
    moments = read_moments(REFERENCE / "moments" / "tiny-gpt2")
    prefixes = [["{}"]] if METHODS[method].prefixes == "groups" else ["{}"]
    return Editor(model, METHODS[method], hparams, PROTOCOLS["released"], MEMORY, prefixes=prefixes, moments=moments)


@pytest.mark.parametrize("method", ["alphaedit", "rome"])
def test_points_are_edits_written_by_hand(method: str, tiny, facts) -> None:
    model, chosen = tiny("tiny-gpt2"), [facts[case] for case in (0, 10, 7)]
    before, editor = model.weights_hash(), editor_of(model, method)
    points = curve(editor, chosen, "entity", [1, 3], MEMORY)
    ways = [(point.facts, point.way) for point in points]
    batches = [(1, "batch"), (3, "batch")] if METHODS[method].joint else []
    assert ways == sorted([(1, "sequence"), (3, "sequence"), *batches], key=lambda way: (way[0], way[1] == "batch"))
    carrying = editor
    for fact in chosen:
        view = fact.view("entity")
        (edited,) = carrying.edits([[view]])
        carrying = carrying.after([view], edited)
    by_hand = score_cases(carrying.model, chosen)
    found = next(point for point in points if (point.facts, point.way) == (3, "sequence"))
    for ours, theirs in zip(found.scores, by_hand, strict=True):
        (one,), (other,) = (score.views["entity"].prompts["reliability"] for score in (ours, theirs))
        assert one.target_new == pytest.approx(other.target_new, abs=1e-4)
    assert len(found.further) == 3 and not found.failed and model.weights_hash() == before


def test_a_failed_edit_is_left_out(tiny, facts) -> None:
    editor = editor_of(tiny("tiny-gpt2"), "rome")
    once = replace(editor, hparams=msgspec.structs.replace(editor.hparams, v_num_grad_steps=1))
    (point,) = curve(once, [facts[0]], "relation", [1], MEMORY)
    assert list(point.failed) == [0] and "no step was taken" in point.failed[0] and len(point.scores) == 1
    with pytest.raises(SettingError, match="2 facts are asked for and 1 are given"):
        curve(editor, [facts[0]], "entity", [2], MEMORY)
    with pytest.raises(SettingError, match="ike changes no weight"):
        curve(replace(editor, method=METHODS["ike"]), [facts[0]], "entity", [1], MEMORY)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(REFERENCE / "models" / "tiny-gpt2"), "--cases", str(REFERENCE / "facts.json")]
    asked = ["sequence", *words, "--method", "ft", "--sequence", "1,2", "--json", str(tmp_path / "s.json")]
    assert call([*asked, "--moments", str(tmp_path)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"--moments {tmp_path} is not used: ft reads no such file"
    assert [line.split(":")[0] for line in lines[1:]] == [
        f"{count} {way}" for count in ("1 fact", "2 facts") for way in ("one after the other", "as one batch")
    ]
    points = json.loads((tmp_path / "s.json").read_text())["points"]
    assert [len(point["cases"]) for point in points] == [1, 1, 2, 2]
    assert points[0]["cases"][0]["further"]["removal"]["removed"] in (True, False)
    for sizes in ("1,x", "1,²", "0", "-1", "1,,2", "9" * 5000):
        assert call(["sequence", *words, "--method", "ft", "--sequence", sizes]) == 2
        assert "is not a list of numbers of edits; give one such as 1,10,100" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["ft", "memit", "rome"])
@pytest.mark.parametrize("part", ["prompt", "rephrasing", "removal"])
def test_a_fact_that_cannot_be_asked_takes_no_other_with_it(method: str, part: str, tiny, facts) -> None:
    """In neither way, whichever of its texts is longer than the model's positions."""
    model, longer = tiny("tiny-gpt2"), "very " * 300
    odd, good = facts[15], [facts[case] for case in (0, 10)]
    if part == "prompt":
        odd = replace(odd, add_template=longer + odd.add_template)
    elif part == "rephrasing":
        odd = replace(odd, paraphrases=(longer + odd.paraphrases[0],))
    else:
        odd = replace(odd, removal_template=longer + odd.removal_template)
    editor = editor_of(model, method)
    alone = curve(editor, good, "relation", [2], MEMORY)
    assert not any(
        point.failed for point in curve(editor, [good[0], odd], "relation", [1, 2], MEMORY) if point.facts < 2
    )
    for point, without in zip(curve(editor, [good[0], odd, good[1]], "relation", [3], MEMORY), alone, strict=True):
        assert list(point.failed) == [15] and "positions" in point.failed[15]
        assert [one.case_id for one in point.scores] == [one.case_id for one in point.further] == [0, 10]
        for ours, theirs in zip(point.scores, without.scores, strict=True):
            (one,), (other,) = (score.views["relation"].prompts["reliability"] for score in (ours, theirs))
            assert one.target_new == pytest.approx(other.target_new, abs=1e-4)


def test_an_edit_that_cannot_be_computed_is_left_out_of_a_batch(tiny, facts, monkeypatch: pytest.MonkeyPatch) -> None:
    editor, whole = editor_of(tiny("tiny-gpt2"), "memit"), Editor.edits

    def failing(self: Editor, groups, history=None):
        if any(view.subject == facts[10].subject for group in groups for view in group):
            return [EditError("its value is not finite")]
        return whole(self, groups, history)

    monkeypatch.setattr(Editor, "edits", failing)
    chosen = [facts[case] for case in (0, 10, 7)]
    for point in curve(editor, chosen, "entity", [3], MEMORY):
        assert point.failed == {10: "its value is not finite"} and len(point.scores) == 3


@pytest.mark.parametrize("method", ["ft", "kn", "memit", "rome"])
def test_an_editor_says_of_one_text_alone_that_it_cannot_be_asked(method: str, tiny, facts) -> None:
    model = tiny("tiny-gpt2")
    odd = replace(facts[15], template="very " * 300 + facts[15].template)
    one, failed, other = editor_of(model, method).edits([[fact.view("entity")] for fact in (facts[0], odd, facts[10])])
    assert isinstance(failed, EditError) and "positions" in str(failed)
    assert not isinstance(one, EditError) and not isinstance(other, EditError)
