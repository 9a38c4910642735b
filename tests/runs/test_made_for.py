"""What a run records of second moments, and files of another model in a run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from artifact.editing.moments.sums import KeySums, write_moments
from artifact.errors import RunError, SettingError
from artifact.facts.datasets.world import world
from artifact.lm.load import LanguageModel
from artifact.plans import find_plans
from artifact.plans.paper import SMOKE
from artifact.reporting.report import repeat_command
from artifact.runs.describe import RunInfo
from artifact.runs.inputs import ANY_MODEL_NOTE, Given, Inputs, evidence
from artifact.runs.resolve import Asked, prepare
from artifact.runs.store import begin, described, first_difference, writing

TINY = Path(__file__).parents[1] / "reference" / "models" / "tiny-gpt2"
NOTHING = Given()
PLAN = msgspec.structs.replace(SMOKE, units=tuple(unit for unit in SMOKE.units if unit.name == "rome-entity"))


def prepared(given: Given = NOTHING, said: list[str] | None = None) -> RunInfo:
    say = (lambda line: None) if said is None else said.append
    return prepare(PLAN, Asked(str(TINY), limit=1, device="cpu", given=given), say)[1]


@pytest.fixture
def moments(tiny, facts, tmp_path: Path) -> Path:
    return made(tiny("tiny-gpt2"), facts, tmp_path / "moments")


def made(model: LanguageModel, facts, folder: Path, most: int = 300) -> Path:
    sums = KeySums(model, (2,))
    prompts = [prompt for fact in facts.values() for prompt in fact.view("entity").specificity]
    sums.add([model.tokens.ids(prompt) for prompt in prompts[:most]])
    write_moments(folder, model, sums, 300)
    return folder


def test_other_files_of_the_same_name_are_refused_in_the_middle_of_a_run(moments, tiny, facts, tmp_path) -> None:
    info = prepared(Given(moments=moments))
    assert info.moments is not None and info.moments.source == "folder moments" and len(info.moments.sha256) == 64
    assert info.file_notes == []
    with writing(tmp_path / "run") as store:
        begin(store, info)
    assert prepared(Given(moments=moments)) == info
    made(tiny("tiny-gpt2"), facts, moments, most=20)  # fewer texts under the same names
    changed = prepared(Given(moments=moments))
    with (
        writing(tmp_path / "run") as store,
        pytest.raises(RunError, match="made with another moments sha256"),
    ):
        begin(store, changed)
    assert json.loads(msgspec.json.encode(info))["moments"]["sha256"] == info.moments.sha256


def test_sampled_moments_are_recorded(tmp_path) -> None:
    """What was sampled, how many tokens, and the hash of the texts: the same in every process."""
    one, other = prepared(), prepared()
    assert one.moments is not None and one.moments == other.moments
    assert "texts drawn from the model itself" in one.moments.source and "tokens" in one.moments.source
    assert len(one.moments.sha256) == 64


def test_a_run_of_an_earlier_version_goes_on(tmp_path) -> None:
    info = prepared()
    with writing(tmp_path / "run") as store:
        store.put("info", json.dumps({k: v for k, v in described(info).items() if k not in ("moments", "file_notes")}))
        assert begin(store, info).moments is None


def test_moments_of_another_model_in_a_run(moments, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    weights = load_file(other / "model.safetensors")
    weights["transformer.h.0.mlp.c_proj.weight"][0, 0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    asked = Asked(str(other), limit=1, device="cpu", given=Given(moments=moments))
    with pytest.raises(SettingError, match="was made for a model whose weights have the hash"):
        prepare(PLAN, asked, lambda line: None)
    said: list[str] = []
    info = prepare(PLAN, replace(asked, given=replace(asked.given, any_model=True)), said.append)[1]
    (note,) = info.file_notes
    assert "used all the same (--any-model)" in note and note in said
    assert repeat_command(info).split()[-3:] == ["--any-model", "--moments", str(moments)]


def test_a_run_with_any_model_is_not_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = find_plans("gpt2-xl")
    monkeypatch.setattr("artifact.runs.inputs.other_weights", lambda model: "")
    monkeypatch.setattr("artifact.runs.inputs.expected_of", lambda key, pinned: None)
    inputs = Inputs(world(), world())
    assert evidence(plan, "gpt2-xl", inputs, Given())[0]
    assert evidence(plan, "gpt2-xl", inputs, Given(any_model=True)) == (False, ANY_MODEL_NOTE)


def test_published_files_given_by_hand_are_of_an_unknown_model() -> None:
    said: list[str] = []
    info = prepared(Given(moments=TINY.parents[1] / "moments" / "tiny-gpt2"), said)
    (note,) = info.file_notes
    assert "made for an unknown model" in note and note in said
    assert first_difference(described(info), described(info)) is None
