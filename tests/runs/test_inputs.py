"""Evidence needs the weights and the data whose hashes are known; a plan needs the data of its own units alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from artifact.editing.protocol import PROTOCOLS
from artifact.facts.dataset import Data
from artifact.plans import PLANS, narrowed
from artifact.runs.inputs import Given, Inputs, evidence, needed_sources, other_weights, run_inputs
from artifact.sources import verify
from artifact.sources.cache import converted_folder
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES
from artifact.sources.lock import entry_of, record

(XL,) = PLANS["gpt2-xl"]
RIGHT, WRONG = b"the model's weights", b"the model's Weights"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache holds GPT-2 XL with weights whose hash is pinned; returns their file."""
    model = HUB_MODELS["gpt2-xl"]
    right = hashlib.sha256(RIGHT).hexdigest()
    monkeypatch.setitem(
        HUB_MODELS, "gpt2-xl", replace(model, sha256=right, size=len(RIGHT), hashes={"config.json": right})
    )
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in model.needed:
        (hub / name).write_bytes(RIGHT)
    monkeypatch.setattr(verify, "hub_file", lambda _, name: hub / name if (hub / name).is_file() else None)
    return hub / model.weights


def inputs(edited: str = "", traced: str | None = PLAIN_SOURCES["known"].files[0].sha256) -> Inputs:
    """Data of a paper's plan that is known by its hashes alone."""
    return Inputs(Data([], [], "", edited, ""), Data([], [], "", str(traced), ""))


def test_evidence_needs_the_pinned_weights(cached: Path) -> None:
    assert evidence(XL, "gpt2-xl", inputs(), Given()) == (True, "")
    counts, note = evidence(XL, "gpt2-xl", inputs(), Given(), "bfloat16")
    assert not counts and note.endswith("other facts, or weights in bfloat16.")
    assert not evidence(XL, "openai-community/gpt2-xl", inputs(), Given())[0]
    cached.write_bytes(WRONG)
    counts, note = evidence(XL, "gpt2-xl", inputs(), Given())
    assert not counts and "model.safetensors of gpt2-xl is not, or not made from, the file with sha256" in note
    cached.write_bytes(RIGHT)
    cached.with_name("config.json").write_bytes(WRONG)
    assert "config.json of gpt2-xl is not" in evidence(XL, "gpt2-xl", inputs(), Given())[1]
    cached.unlink()
    assert not evidence(XL, "gpt2-xl", inputs(), Given())[0]


def test_evidence_needs_the_data_whose_hash_is_known(cached: Path, tmp_path: Path) -> None:
    """The authors' file and the known facts too, not templates' file alone."""
    file = tmp_path / "rel_counterfact.json"
    file.write_bytes(b"the authors' data")
    record("relation/rel_counterfact.json", entry_of(file))
    recorded, templates = entry_of(file).sha256, Given(relation_source="templates")
    pinned = str(PLAIN_SOURCES["counterfact"].files[0].sha256)
    assert (
        evidence(XL, "gpt2-xl", inputs(recorded), Given())[0] and evidence(XL, "gpt2-xl", inputs(pinned), templates)[0]
    )
    for read, given, name in (
        (inputs("0" * 64), Given(), "rel_counterfact.json"),
        (inputs(recorded, "0" * 64), Given(), "known_1000.json"),
        (inputs("0" * 64), templates, "counterfact.json"),
    ):
        counts, note = evidence(XL, "gpt2-xl", read, given)
        assert not counts and f": {name} has sha256 000000000000, not " in note


def test_a_plan_that_only_traces_needs_no_facts_to_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps([{"known_id": 7, "subject": "Rome", "prompt": "Rome lies in", "attribute": "Italy"}]))

    def path_of(key: str) -> Path:
        assert key == "known", f"{key} is not needed"
        return known

    monkeypatch.setattr("artifact.runs.inputs.path_of", path_of)
    plan = narrowed(XL, ["figure2"])
    assert needed_sources(plan, "gpt2-xl", Given()) == (("gpt2-xl", "known"), ())
    read = run_inputs(plan, "gpt2-xl", Given(), PROTOCOLS["corrected"])
    assert [one.case_id for one in read.traced.statements] == [7] and read.edited == read.traced


def test_converted_weights_are_made_from_the_pinned_ones(cached: Path) -> None:
    cached.unlink()
    folder = converted_folder(HUB_MODELS["gpt2-xl"])
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes(RIGHT if name in HUB_MODELS["gpt2-xl"].hashes else b"converted")
        entry = entry_of(folder / name, made_from=hashlib.sha256(RIGHT).hexdigest())
        record(f"converted/{folder.name}/{name}", entry)
    assert not other_weights("gpt2-xl")
    file = folder / "model-00001-of-00001.safetensors"
    file.write_bytes(b"converted")
    assert other_weights("gpt2-xl"), "nothing is recorded of it"
    key = f"converted/{folder.name}/{file.name}"
    record(key, entry_of(file, made_from=hashlib.sha256(WRONG).hexdigest()))
    assert other_weights("gpt2-xl")
    record(key, entry_of(file, made_from=hashlib.sha256(RIGHT).hexdigest()))
    assert not other_weights("gpt2-xl")
    file.write_bytes(b"Converted")
    assert other_weights("gpt2-xl")
