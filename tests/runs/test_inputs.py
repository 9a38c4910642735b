"""Evidence needs the weights whose hash is pinned, straight from the hub's cache or converted from them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from artifact.facts.dataset import Data
from artifact.plan import PLANS
from artifact.runs.inputs import Given, evidence, other_weights
from artifact.sources import verify
from artifact.sources.cache import converted_folder
from artifact.sources.catalogue import HUB_MODELS
from artifact.sources.lock import entry_of, record

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


def test_evidence_needs_the_pinned_weights(cached: Path) -> None:
    data = Data([], [], "CounterFact with the authors' relation data", "", "")
    assert evidence(PLANS["gpt2-xl"][0], "gpt2-xl", data, Given()) == (True, "")
    cached.write_bytes(WRONG)
    counts, note = evidence(PLANS["gpt2-xl"][0], "gpt2-xl", data, Given())
    assert not counts and "model.safetensors of gpt2-xl is not, or not made from, the file with sha256" in note
    cached.write_bytes(RIGHT)
    cached.with_name("config.json").write_bytes(WRONG)
    assert "config.json of gpt2-xl is not" in evidence(PLANS["gpt2-xl"][0], "gpt2-xl", data, Given())[1]
    cached.unlink()
    assert not evidence(PLANS["gpt2-xl"][0], "gpt2-xl", data, Given())[0]


def test_converted_weights_are_made_from_the_pinned_ones(cached: Path) -> None:
    cached.unlink()
    folder = converted_folder(HUB_MODELS["gpt2-xl"])
    folder.mkdir(parents=True)
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
