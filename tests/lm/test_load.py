"""Models by name, folder and hub: what loads, what is refused, and what `auto` takes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub import serving

from artifact.cli import call
from artifact.errors import ModelError
from artifact.lm.load import load, load_folder
from artifact.sources.catalogue import HUB_MODELS, SOURCES
from artifact.sources.fetch import hub_answers

SMALL = HUB_MODELS["gpt2"]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, its cache in HF_HOME: the hub's address is read once, at import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    if "HF_HOME" in environment:
        kept["KLOC_CACHE"] = f"{environment['HF_HOME']}/kloc"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**kept, **environment})


def test_unknown_model() -> None:
    with pytest.raises(
        ModelError,
        match=r"'gpt5' is neither a known name \(world, world-masked, gpt2, gpt2-xl, gpt-j, smollm2\), a folder, nor",
    ):
        load("gpt5")


def test_folder_that_is_no_model(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config.json"):
        load(str(tmp_path))
    source = reference / "models" / "tiny-gpt2"
    shutil.copytree(source, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read as weights .*; replace the file"):
        load(str(tmp_path / "damaged"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "t5"}, "model family 't5' is not supported; expected gpt2, gptj, llama, "),
        ({"activation_function": "relu"}, "activation_function = 'relu' is not supported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True is not supported"),
    ],
)
def test_configurations_the_pass_does_not_know(tmp_path: Path, reference: Path, change: dict, says: str) -> None:
    shutil.copytree(reference / "models" / "tiny-gpt2", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=says):
        load(str(tmp_path / "model"))


def test_hash_is_of_the_weights(reference: Path, tmp_path: Path) -> None:
    import hashlib

    folder = reference / "models" / "tiny-gpt2"
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    first = load_folder(folder)
    assert first.revision == f"sha256:{expected}"
    assert first.weights_hash() == load_folder(folder).weights_hash()


TINY_AS_GPT2 = """
from dataclasses import replace
from artifact.sources.catalogue import HUB_MODELS, SOURCES
small = replace(HUB_MODELS["gpt2"], size=1_444_888, sha256=None, hashes={})
HUB_MODELS["gpt2"] = SOURCES["gpt2"] = small
"""
"""The tiny model under the name of GPT-2 small, without the pinned size and hash."""
FETCH = """
from artifact.sources.fetch import cached, fetch, hub_answers
from artifact.lm.load import load
print(cached(small), hub_answers(small))
fetch(small, print)
import contextlib, os, urllib.request
with contextlib.suppress(OSError):  # there is no such page: the hub notes that it was asked
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/all-is-fetched")
print(cached(small), load("gpt2").revision)
"""


def test_fetched_once_from_a_hub_at_the_pinned_revision(reference: Path, tmp_path: Path) -> None:
    with serving(reference / "models" / "tiny-gpt2", SMALL.repo, SMALL.revision) as hub:
        done = python(TINY_AS_GPT2 + FETCH, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path))
    assert done.stdout.splitlines() == [
        "False (True, 'the hub answers')",
        "fetching openai-community/gpt2@607a30d7: 1.4 MB",
        f"True {SMALL.revision}",
    ], done.stderr
    mark = hub.asked.index("/all-is-fetched")
    assert any(path.endswith(f"{SMALL.revision}/model.safetensors") for path in hub.asked[:mark])
    assert not [path for path in hub.asked[mark:] if "gpt2" in path], "a model in the cache is not asked for again"


def test_auto_takes_gpt2_from_a_hub_that_answers(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Smoke's figure on what the hub serves, then the same from the cache without it."""
    command = ["run", "smoke", "--only", "figure2", "--limit", "1", "--out"]
    first = f"import sys; from artifact.cli import call; sys.exit(call({[*command, str(tmp_path / 'a')]}))"
    with serving(reference / "models" / "tiny-gpt2", SMALL.repo, SMALL.revision) as hub:
        done = python(TINY_AS_GPT2 + first, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert "model: gpt2 (auto: the hub answers)" in done.stdout.splitlines()
    tiny = replace(SMALL, size=1_444_888, sha256=None, hashes={})
    for known in (HUB_MODELS, SOURCES):
        monkeypatch.setitem(known, "gpt2", tiny)
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "hub" / "kloc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    assert call([*command, str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.startswith("model: gpt2 (auto: GPT-2 small is in the hub cache)\n")
    page = (tmp_path / "b" / "report" / "report.md").read_text()
    assert "GPT-2 small is in the hub cache" in page and "built-in everyday facts" in page


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("artifact.lm.device.host_memory", lambda: 1000)
    monkeypatch.setattr("artifact.lm.load.fetch", lambda *_: pytest.fail("fetched"))
    for dtype, size in ((torch.float32, "31.5 GB"), (torch.float16, "15.7 GB")):
        words = str(dtype).removeprefix("torch.")
        with pytest.raises(ModelError, match=f"gpt-j: needs about {size} of host memory in {words}, and"):
            load("gpt-j", "cpu", dtype)


def test_insisting_without_a_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "kloc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert call(["smoke", "--model", "gpt2", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kloc: gpt2: openai-community/gpt2@607a30d7 cannot be fetched")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        began = time.monotonic()
        answers, why = hub_answers(SMALL, seconds=0.5)
        assert time.monotonic() - began < 5
    assert not answers
    assert "answer" in why
