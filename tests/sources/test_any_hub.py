"""Any model of the hub by its name: the revision is resolved once and recorded, and what arrives is what is listed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from cheap import refusing
from family_models import VOCABULARY, configuration, module_of, write_model
from hub import Hub, serving

from artifact.cli import call
from artifact.errors import ModelError
from artifact.lm.load import load
from artifact.sources.any_hub import HubId, hub_id

REPO, REVISION = "someone/tiny-qwen", "c0ffee" + "0" * 34


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = configuration("qwen2", Random(3).choice, vocabulary=VOCABULARY, layers=2, positions=128)
    made = write_model(tmp_path_factory.mktemp("hub") / "tiny", module_of(config), max_shard_size="30KB")
    (made / "README.md").write_text("not taken")
    return made


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "kloc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serving(folder, REPO, REVISION) as served:
        served.in_use(monkeypatch)
        yield served


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_id("EleutherAI/pythia-70m") == HubId("EleutherAI/pythia-70m", "main")
    assert hub_id("Qwen/Qwen2.5-7B@refs/pr/1") == HubId("Qwen/Qwen2.5-7B", "refs/pr/1")
    for name in ("world", "a/b/c", "../b", "a/..", "/a/b", "a b/c", "a/b@", "a/b@-x", "a/b@../c", "é/b"):
        assert hub_id(name) is None, name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "model").mkdir(parents=True)
    assert hub_id("own/model") is None  # a folder that is there is meant


def test_a_sharded_model_is_fetched_once_and_its_revision_recorded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = load(REPO, "cpu", say=said.append)
    assert (first.name, first.revision) == (REPO, REVISION)
    assert said[0] == f"{REPO}: main is the revision {REVISION}" and said[1].startswith(f"fetching {REPO}@c0ffee00: ")
    assert not [path for path in hub.asked if "README" in path]
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (REPO, f"{REPO}@main", f"{REPO}@{REVISION}"):
        again = load(name, "cpu", torch.bfloat16)
        assert (again.revision, again.decoder.dtype) == (REVISION, torch.bfloat16)
    assert not hub.asked, "what is in the cache is not asked for again"
    assert again.tokens.encode("The capital").ids == first.tokens.encode("The capital").ids


def test_what_does_not_fit_or_is_not_known_is_refused_before_the_weights(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ModelError, match=f"{REPO}: needs about .* of host memory"):
        patch.setattr("artifact.lm.device.host_memory", lambda: 1000)
        load(REPO, "cpu")
    assert not [path for path in hub.asked if path.endswith(".safetensors")]


def test_a_damaged_shard_is_said_and_not_kept(hub: Hub, folder: Path) -> None:
    (name, *_) = sorted(file.name for file in folder.glob("model-*.safetensors"))
    hub.damage.append(name)
    with pytest.raises(ModelError, match=rf"{name} is not the file that the hub lists; it was removed"):
        load(REPO, "cpu")
    assert load(REPO, "cpu").revision == REVISION


def test_a_kept_list_that_is_wrong_removes_nothing(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are whole and the list is not: it is named, also where nothing can be fetched."""
    load(REPO, "cpu")
    (kept,) = (tmp_path / "kloc" / "hub").glob("*.json")
    (name, *_) = sorted(file.name for file in folder.glob("model-*.safetensors"))
    before, cache = kept.read_bytes(), sorted((tmp_path / "hub").rglob("*"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for wrong in (name, "config.json"):
        state = json.loads(before)
        state["files"][REVISION][wrong]["size"] += 1
        kept.write_text(json.dumps(state))
        with pytest.raises(ModelError, match=rf"{wrong}.*delete {kept}, and the hub is asked again$"):
            load(REPO, "cpu")
        assert sorted((tmp_path / "hub").rglob("*")) == cache
    kept.write_bytes(before)
    assert load(REPO, "cpu").revision == REVISION


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["files"][REVISION].clear(),
        lambda state: state["files"][REVISION].update({"../../evil": {"size": 1}}),
        lambda state: state["files"][REVISION]["config.json"].update(size=-3),
        lambda state: state["files"][REVISION]["config.json"].update(sha256="x"),
        lambda state: state["revisions"].update(main="../../x"),
    ],
)
def test_a_kept_list_that_no_hub_gives_is_refused(change: Callable[[Any], object], hub: Hub, tmp_path: Path) -> None:
    load(REPO, "cpu")
    (kept,) = (tmp_path / "kloc" / "hub").glob("*.json")
    state = json.loads(kept.read_bytes())
    change(state)
    kept.write_text(json.dumps(state))
    with pytest.raises(ModelError, match=rf"^{kept}: holds what no hub lists.*; delete it, and the hub is asked"):
        load(REPO, "cpu")


def test_what_the_hub_does_not_have_is_one_line(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusing(capsys)
    trace = ("--prompt", "The capital of France is", "--subject", "France", "--samples", 1)
    assert "nobody/nothing@main cannot be fetched" in refused("trace", "--model", "nobody/nothing", *trace)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be fetched (HF_HUB_OFFLINE is set)" in refused("trace", "--model", REPO, *trace)


def test_a_trace_by_the_hubs_name_in_bfloat16(hub: Hub, tmp_path: Path) -> None:
    words = ["trace", "--model", REPO, "--prompt", "The capital of France is", "--subject", "France", "--samples", "1"]
    out = tmp_path / "trace.json"
    assert call([*words, "--noise", "0.1", "--dtype", "bfloat16", "--json", str(out)]) == 0
    assert REVISION in out.read_text()
