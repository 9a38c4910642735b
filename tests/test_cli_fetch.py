"""`kloc fetch` as a user types it: what it lists, fetches, converts, checks; a second run mends what one line told."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from filehost import Fault, hosting
from hub import serving

from artifact.cli import call
from artifact.cli.fetch import obtain
from artifact.editing.mend_weights import read_network, tensors_of
from artifact.errors import ModelError, SettingError
from artifact.lm.load import load, load_folder
from artifact.runs.inputs import Given, run_mend_weights
from artifact.sources import download
from artifact.sources.cache import cache_folder, converted_folder, hub_file
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES, SOURCES, PlainFile
from artifact.sources.convert import convert_model
from artifact.sources.download import Patience
from artifact.sources.fetch import cached, discard, fetch, path_of, state_of
from artifact.sources.lock import RECORDED
from artifact.sources.verify import examine, wrong_sizes

REFERENCE = Path(__file__).parent / "reference"
FACTS = b'[{"case_id": 0}]'


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KLOC_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=5, tries=2, first_wait=0.01))


@pytest.fixture
def host():
    with hosting() as serving_files:
        yield serving_files


def put(monkeypatch, host, name: str, content: bytes, pinned: bool = True):
    """Source `name` as a small file of the loopback host under its own file name; its URL below KLOC_MIRROR."""
    source = PLAIN_SOURCES[name]
    file = source.files[0]
    monkeypatch.setenv("KLOC_MIRROR", host.url)
    host.files[f"/files.invalid/{file.name}"] = content
    small = PlainFile(
        name=file.name,
        urls=(f"http://files.invalid/{file.name}",),
        size=len(content),
        exact=pinned,
        sha256=hashlib.sha256(content).hexdigest() if pinned else None,
    )
    for table in (SOURCES, PLAIN_SOURCES):
        monkeypatch.setitem(table, name, replace(source, files=(small,)))
    return small


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serves a tiny GPT-J as gpt-j, its weights as the pickle that is published."""
    folder = tmp_path / "published"
    shutil.copytree(REFERENCE / "models" / "tiny-gptj", folder)
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    size = (folder / "pytorch_model.bin").stat().st_size
    small = replace(HUB_MODELS["gpt-j"], size=size, sha256=None, hashes={})
    for table in (SOURCES, HUB_MODELS):
        monkeypatch.setitem(table, "gpt-j", small)
    with serving(folder, small.repo, small.revision) as serving_model:
        serving_model.in_use(monkeypatch)
        yield serving_model


def test_without_names_it_lists_and_fetches_nothing(capsys, monkeypatch, host) -> None:
    put(monkeypatch, host, "counterfact", FACTS)
    assert call(["fetch"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()}
    for name, source in SOURCES.items():
        assert source.licence in lines[name] and " missing " in lines[name] and source.purpose in lines[name]
    assert "6.4 GB" in lines["gpt2-xl"] and "24.2 GB" in lines["gpt-j"]
    assert str(cache_folder()) in out
    assert host.asked == [] and not cache_folder().exists()
    assert call(["fetch", "counterfact"]) == 0
    capsys.readouterr()
    assert call(["fetch"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " here " in lines["counterfact"]


def test_fetch_ends_with_the_place(capsys, monkeypatch, host) -> None:
    put(monkeypatch, host, "counterfact", FACTS)
    assert call(["fetch", "counterfact"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["fetching counterfact/counterfact.json: 0.0 MB", f"counterfact: {cache_folder() / 'counterfact'}"]
    assert path_of("counterfact").read_bytes() == FACTS
    locked = json.loads((cache_folder() / "fetched.lock.json").read_bytes())["files"]["counterfact/counterfact.json"]
    assert locked["sha256"] == hashlib.sha256(FACTS).hexdigest() and locked["size"] == len(FACTS)
    assert locked["url"] == f"{host.url}/files.invalid/counterfact.json"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch", "gpt5"], "'gpt5' is not a source; give one of gpt2, gpt2-xl, gpt-j, counterfact"),
        (["fetch", "gpt5", "--check"], "'gpt5' is not a source"),
        (["fetch", "--all"], "--all"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys) -> None:
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert not cache_folder().exists()


def test_one_that_fails_does_not_stop_the_others(capsys, monkeypatch, host) -> None:
    put(monkeypatch, host, "counterfact", FACTS)
    put(monkeypatch, host, "known", FACTS)
    host.faults = [Fault(cut_after=3), Fault(status=500)]
    monkeypatch.setitem(host.files, "/absent", b"")
    urls = (f"{host.url}/absent.json",)
    for table in (SOURCES, PLAIN_SOURCES):
        source = table["counterfact"]
        monkeypatch.setitem(table, "counterfact", replace(source, files=(replace(source.files[0], urls=urls),)))
    assert call(["fetch", "counterfact", "known"]) == 2
    found = capsys.readouterr()
    assert found.err.count("\n") == 1 and found.err.startswith("kloc: counterfact/counterfact.json: cannot be fetched")
    assert "azhx/counterfact" in found.err and "KLOC_MIRROR" in found.err
    assert path_of("known").read_bytes() == FACTS
    put(monkeypatch, host, "counterfact", FACTS)
    assert call(["fetch", "counterfact", "known"]) == 0
    assert path_of("counterfact").read_bytes() == FACTS


def test_all_that_is_asked_for_must_fit(capsys, monkeypatch, host) -> None:
    put(monkeypatch, host, "counterfact", FACTS)
    put(monkeypatch, host, "known", FACTS)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * len(FACTS) - 1))
        assert call(["fetch", "counterfact", "known"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: counterfact, known: ") and error.count("\n") == 1 and "make room" in error
    assert host.asked == []
    assert call(["fetch", "counterfact", "known"]) == 0


def test_check_finds_a_flipped_byte_without_a_network(capsys, monkeypatch, host) -> None:
    put(monkeypatch, host, "counterfact", FACTS)
    assert call(["fetch", "counterfact"]) == 0
    host.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert call(["fetch", "--check"]) == 0
    out = capsys.readouterr().out
    assert "whole    counterfact/counterfact.json" in out
    assert "missing  known/known_1000.json: kloc fetch known" in out
    assert "missing  hub/gpt2/model.safetensors: kloc fetch gpt2" in out
    path = path_of("counterfact")
    path.write_bytes(FACTS.replace(b"0", b"1"))
    assert call(["fetch", "counterfact", "--check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: counterfact/counterfact.json: damaged, expected sha256 ") and error.count("\n") == 1
    assert error.endswith("; run kloc fetch counterfact to fetch it again\n") and path.exists()
    path.write_bytes(FACTS + b" ")
    assert call(["fetch", "counterfact", "--check"]) == 2
    assert f"expected {len(FACTS)} bytes, got {len(FACTS) + 1}" in capsys.readouterr().err
    assert host.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert call(["fetch", "counterfact"]) == 0
    assert call(["fetch", "counterfact", "--check"]) == 0


def published_mend(path: Path) -> bytes:
    with np.load(REFERENCE / "mend" / "mend_network.npz") as file:
        state = {f"mend.{key}": torch.from_numpy(file[key]) for key in file.files if key != "pad_embedding"}
    torch.save({"model": {**state, "edit_lrs": state.pop("mend.edit_lrs")}}, path)
    return path.read_bytes()


def test_mends_pickle_is_converted_once(capsys, monkeypatch, host, tmp_path) -> None:
    content = published_mend(tmp_path / "m.pt")
    put(monkeypatch, host, "mend-gpt2-xl", content, pinned=False)
    assert call(["fetch", "mend-gpt2-xl"]) == 0
    assert "converting the pickle" in capsys.readouterr().out
    made = path_of("mend-gpt2-xl")
    assert made.name == "mend-10tok-gpt2-xl.safetensors"
    one, other = tensors_of(read_network(made)), tensors_of(read_network(tmp_path / "m.pt"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    locked = json.loads((cache_folder() / "fetched.lock.json").read_bytes())["files"]
    assert locked[f"mend-gpt2-xl/{made.name}"]["made_from"] == hashlib.sha256(content).hexdigest()
    assert call(["fetch", "mend-gpt2-xl"]) == 0
    assert "converting" not in capsys.readouterr().out and len(host.asked) == 1
    made.write_bytes(made.read_bytes()[:-1] + b"!")
    assert call(["fetch", "mend-gpt2-xl", "--check"]) == 2
    assert call(["fetch", "mend-gpt2-xl"]) == 0
    assert call(["fetch", "mend-gpt2-xl", "--check"]) == 0


def test_a_pickle_that_cannot_be_converted_is_kept_and_not_fetched_again(capsys, monkeypatch, host, tmp_path) -> None:
    """Its reason is said at once the next time, by fetch, --check and a run, with the ways out."""
    put(monkeypatch, host, "mend-gpt2-xl", b"no pickle", pinned=False)
    assert call(["fetch", "mend-gpt2-xl"]) == 2
    assert "it sent is not a file of torch weights (File is not a zip file)" in capsys.readouterr().err
    host.asked.clear()
    put(monkeypatch, host, "mend-gpt2-xl", _damaged_pickle(tmp_path), pinned=False)
    assert call(["fetch", "mend-gpt2-xl"]) == 2
    first = capsys.readouterr().err
    assert "mend-10tok-gpt2-xl.pt: cannot be read as a file of torch weights" in first and first.count("\n") == 1
    for way in ("--mend-weights", "kloc mend-train", "kloc fetch mend-gpt2-xl --again", "another file in its place"):
        assert way in first
    for command in (["fetch", "mend-gpt2-xl"], ["fetch", "mend-gpt2-xl", "--check"]):
        assert call(command) == 2
        found = capsys.readouterr()
        assert "cannot be read as a file of torch weights" in found.err and "converting" not in found.out
    weights, why = run_mend_weights("gpt2-xl", Given())
    assert weights is None and "cannot be read as a file of torch weights" in why and "--mend-weights" in why
    obtain([], ["mend-gpt2-xl"])
    assert capsys.readouterr().out.startswith("mend-gpt2-xl: left out (")
    assert len(host.asked) == 1

    put(monkeypatch, host, "mend-gpt2-xl", published_mend(tmp_path / "m.pt"), pinned=False)
    assert call(["fetch", "mend-gpt2-xl", "--again"]) == 0 and len(host.asked) == 2
    assert path_of("mend-gpt2-xl").suffix == ".safetensors"
    assert call(["fetch", "mend-gpt2-xl", "--check"]) == 0


def _damaged_pickle(folder: Path) -> bytes:
    """A file that looks like torch's and holds a pickle that is not one."""
    with zipfile.ZipFile(folder / "damaged.zip", "w") as archive:
        archive.writestr("m/data.pkl", b"no pickle")
    return (folder / "damaged.zip").read_bytes()


@pytest.mark.parametrize("version", [None, "another"])
def test_another_pickle_in_its_place_is_converted(capsys, monkeypatch, host, tmp_path, version) -> None:
    """As is the same one by another version of the package, which may read what this one could not."""
    content = published_mend(tmp_path / "m.pt")
    put(monkeypatch, host, "mend-gpt2-xl", content if version else _damaged_pickle(tmp_path), pinned=False)
    with monkeypatch.context() as patched:
        if version:
            refuse = SettingError("m.pt: cannot be read as a file of torch weights (once)")
            patched.setattr("artifact.editing.mend_weights.convert", Mock(side_effect=refuse))
            patched.setattr("artifact.sources.lock.__version__", version)
        assert call(["fetch", "mend-gpt2-xl"]) == 2
    if not version:
        put(monkeypatch, host, "mend-gpt2-xl", content, pinned=False)
        (cache_folder() / "mend-gpt2-xl" / "mend-10tok-gpt2-xl.pt").write_bytes(content)
        obtain([], ["mend-gpt2-xl"])
    assert call(["fetch", "mend-gpt2-xl"]) == 0
    assert path_of("mend-gpt2-xl").suffix == ".safetensors" and len(host.asked) == 1


def test_again_removes_what_was_recorded(capsys, monkeypatch, host, hub) -> None:
    put(monkeypatch, host, "counterfact", FACTS, pinned=False)
    assert call(["fetch", "counterfact", "gpt-j"]) == 0
    put(monkeypatch, host, "counterfact", FACTS + b" ", pinned=False)
    path_of("counterfact").write_bytes(b"x")
    assert call(["fetch", "counterfact"]) == 2 and "recorded" in capsys.readouterr().err
    asked = len(hub.asked)
    assert call(["fetch", "counterfact", "gpt-j", "--again"]) == 0
    assert path_of("counterfact").read_bytes() == FACTS + b" " and len(hub.asked) > asked
    assert call(["fetch", "counterfact", "gpt-j", "--check"]) == 0
    for arguments in (["fetch", "--again"], ["fetch", "known", "--again", "--check"]):
        assert call(arguments) == 2 and "kloc fetch NAME --again" in capsys.readouterr().err


def test_a_pickled_model_is_fetched_verified_and_converted(hub, capsys) -> None:
    """From the hub with a flipped byte first; then the converted folder alone is what loads, and is checked."""
    model = HUB_MODELS["gpt-j"]
    hub.damage.append("pytorch_model.bin")
    assert call(["fetch", "gpt-j"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: hub/gpt-j/pytorch_model.bin: expected sha256 ") and error.count("\n") == 1
    assert "(told by the hub)" in error and "nothing of it was kept: run the same command again" in error
    assert not cached(model)
    assert call(["fetch", "gpt-j"]) == 0
    made = converted_folder(model)
    assert capsys.readouterr().out.splitlines()[-1] == f"gpt-j: {made}"
    assert cached(model) and not list(made.glob("*.bin"))
    loaded = load("gpt-j")
    assert loaded.revision == model.revision
    assert loaded.weights_hash() == load_folder(REFERENCE / "models" / "tiny-gptj").weights_hash()
    hub.asked.clear()
    assert call(["fetch", "gpt-j"]) == 0
    assert call(["fetch", "gpt-j", "--check"]) == 0
    assert hub.asked == []
    weights = made / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert call(["fetch", "gpt-j", "--check"]) == 2
    assert f"converted/{made.name}/model.safetensors: damaged" in capsys.readouterr().err
    assert call(["fetch", "gpt-j"]) == 0
    assert call(["fetch", "gpt-j", "--check"]) == 0
    weights.unlink()
    with pytest.raises(ModelError, match="model.safetensors: is missing; run kloc fetch gpt-j to fetch it again"):
        fetch(model)
    capsys.readouterr()
    assert call(["fetch", "gpt-j", "--check"]) == 0
    assert f"missing  converted/{made.name}/model.safetensors" in capsys.readouterr().out
    assert call(["fetch", "gpt-j"]) == 0 and weights.is_file()


@pytest.mark.parametrize("shard", [200_000, 10**9])
def test_a_part_of_a_converted_model_does_not_pass_for_it(hub, capsys, shard) -> None:
    """Even where nothing tells which files there were: the hashes are gone with the file that holds them."""
    model, kept = HUB_MODELS["gpt-j"], cache_folder() / RECORDED
    for kept_hashes in (True, False):
        made = convert_model(model, hub.models[model.repo][0], shard=shard)
        for lost in [path for path in made.iterdir() if path.suffix == ".safetensors" or path.name == "config.json"]:
            content = lost.read_bytes()
            lost.unlink()
            if not kept_hashes:
                kept.unlink(missing_ok=True)
            assert state_of(model) == "partly"
            with pytest.raises(ModelError, match=f"{lost.name}: is missing; run kloc fetch gpt-j to fetch it again"):
                fetch(model)
            lost.write_bytes(content)
        shutil.rmtree(made)
    made.mkdir()
    assert call(["fetch", "gpt-j", "--check"]) == 0
    assert f"missing  converted/{made.name}/config.json" in capsys.readouterr().out
    assert call(["fetch", "gpt-j"]) == 0 and load("gpt-j").revision == model.revision


def test_a_converted_model_that_is_a_link_is_removed_as_one(hub, capsys, tmp_path) -> None:
    made = convert_model(HUB_MODELS["gpt-j"], hub.models[HUB_MODELS["gpt-j"].repo][0])
    made.rename(tmp_path / "elsewhere")
    made.symlink_to(tmp_path / "elsewhere")
    discard(HUB_MODELS["gpt-j"])
    assert not made.is_symlink() and (tmp_path / "elsewhere" / "config.json").is_file()


def test_conversion_in_shards_holds_the_same_weights(hub, capsys) -> None:
    model = HUB_MODELS["gpt-j"]
    made = convert_model(model, hub.models[model.repo][0], shard=200_000)
    assert len(list(made.glob("model-*.safetensors"))) > 2 and (made / "model.safetensors.index.json").is_file()
    assert load_folder(made).weights_hash() == load_folder(REFERENCE / "models" / "tiny-gptj").weights_hash()
    shutil.rmtree(made)
    convert_model(model, hub.models[model.repo][0])
    assert not list(wrong_sizes(model)) and {one.state for one in examine(model)} == {"whole"}


def test_a_damaged_file_of_a_model_is_fetched_again(capsys, monkeypatch, tmp_path) -> None:
    """Even one that loading could do without; weights other than the pinned ones are not kept."""
    pinned = HUB_MODELS["gpt2"]
    size = (REFERENCE / "models" / "tiny-gpt2" / "model.safetensors").stat().st_size
    small = replace(pinned, size=size, sha256=None, hashes={})
    with serving(REFERENCE / "models" / "tiny-gpt2", small.repo, small.revision) as hub:
        hub.in_use(monkeypatch)
        assert call(["fetch", "gpt2"]) == 2
        assert f"model.safetensors: expected {pinned.size} bytes, got {size})" in capsys.readouterr().err
        assert not cached(small)
        monkeypatch.setitem(SOURCES, "gpt2", replace(pinned, size=size))
        assert call(["fetch", "gpt2"]) == 2
        assert f"expected sha256 {pinned.sha256}" in capsys.readouterr().err and not cached(small)
        for table in (SOURCES, HUB_MODELS):
            monkeypatch.setitem(table, "gpt2", small)
        assert call(["fetch", "gpt2"]) == 0
        file = hub_file(small, "tokenizer_config.json")
        good = file.read_bytes()
        file.write_bytes(good + b" ")
        assert call(["fetch", "gpt2", "--check"]) == 2
        assert "hub/gpt2/tokenizer_config.json: damaged, expected " in capsys.readouterr().err
        assert call(["fetch", "gpt2"]) == 0
    assert hub_file(small, "tokenizer_config.json").read_bytes() == good
    assert call(["fetch", "gpt2", "--check"]) == 0


def test_a_model_without_a_hub_is_refused_in_one_line(hub, capsys, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert call(["fetch", "gpt-j"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: gpt-j: EleutherAI/gpt-j-6b@47e16930 cannot be fetched") and error.count("\n") == 1


def test_a_legacy_pickle_is_converted_too(hub) -> None:
    """Torch's format before 1.6 is no zip archive and cannot be mapped; the same tensors come out."""
    model = HUB_MODELS["gpt-j"]
    folder = hub.models[model.repo][0]
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    made = convert_model(model, folder)
    assert load_folder(made).weights_hash() == load_folder(REFERENCE / "models" / "tiny-gptj").weights_hash()
