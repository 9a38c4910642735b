"""Moments, edits and MEND networks of another model are refused, whatever their shapes; --any-model goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from artifact.cli import call
from artifact.editing import made_for
from artifact.editing.mend_weights import read_network, write_network
from artifact.editing.methods.mend import MendHparams
from artifact.editing.moments.files import PROVENANCE, moment_file, read_moments
from artifact.editing.moments.source import moments_note
from artifact.editing.moments.sums import KeySums, write_moments
from artifact.errors import SettingError
from artifact.lm.load import LanguageModel, load_folder

REFERENCE = Path(__file__).parents[1] / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"
NETWORK = REFERENCE / "mend" / "mend_network.npz"
OTHER_HASH = "ab" * 32


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shapes whose weights differ in one entry."""
    folder = tmp_path_factory.mktemp("other") / "tiny-gpt2"
    shutil.copytree(TINY, folder)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.mlp.c_proj.weight"][0, 0] += 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def moments(tiny, facts, tmp_path: Path) -> Path:
    """Second moments of tiny-gpt2 over the facts' prompts, written as kloc moments does."""
    model = tiny("tiny-gpt2")
    sums = KeySums(model, (2,))
    sums.add([model.tokens.ids(prompt) for fact in facts.values() for prompt in fact.view("entity").specificity])
    folder = tmp_path / "moments"
    write_moments(folder, model, sums, 300)
    return folder


def request(tmp_path: Path) -> Path:
    record = tmp_path / "request.json"
    record.write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[10]))
    (tmp_path / "prefixes.json").write_text('["{}"]')
    return record


def rome(model: Path, tmp_path: Path, *more: object) -> list[str]:
    words = ["edit", "--model", model, "--method", "rome", "--request", request(tmp_path), "--out", tmp_path / "e.st"]
    return [str(word) for word in (*words, "--prefixes", tmp_path / "prefixes.json", *more)]


def digits(model: LanguageModel) -> str:
    return model.weights_sha256[:12]


def test_the_hash_is_taken_once_and_the_weights_are_looked_at_anew(tiny) -> None:
    model = replace(tiny("tiny-gpt2"))
    before = model.weights_sha256
    weight = model.decoder.weights["transformer.h.0.mlp.c_proj.weight"]
    held = weight[0, 0].item()
    weight[0, 0] += 1
    changed = model.weights_hash()
    weight[0, 0] = held
    assert model.weights_sha256 is before and changed != before and model.weights_hash() == before


def test_moments_of_another_model(other, moments, tiny, tmp_path, capsys) -> None:
    assert call(rome(TINY, tmp_path, "--moments", moments)) == 0
    assert "made for" not in capsys.readouterr().out
    (tmp_path / "e.st").unlink()
    assert call(rome(other, tmp_path, "--moments", moments)) == 2
    said = capsys.readouterr().err
    theirs, own = digits(tiny("tiny-gpt2")), digits(load_folder(other))
    assert said.count("\n") == 1 and theirs in said and own in said and "--any-model" in said
    assert not (tmp_path / "e.st").exists()
    assert call(rome(other, tmp_path, "--moments", moments, "--any-model")) == 0
    assert f"hash {theirs}, and {other} has {own}; used all the same" in capsys.readouterr().out
    with safe_open(tmp_path / "e.st", framework="pt") as file:
        about = file.metadata()
    assert theirs in about["notes"] and about["weights_sha256"] == load_folder(other).weights_sha256


def test_moments_know_their_model_wherever_they_lie(moments, other, tiny, tmp_path) -> None:
    """The file itself says it, else moments.json beside it; without either the model is unknown, which is said."""
    model, another = tiny("tiny-gpt2"), load_folder(other)
    deep = tmp_path / "some" / "where"
    deep.parent.mkdir()
    moments.rename(deep)
    assert moments_note(read_moments(tmp_path / "some"), model, [2], False) == ""
    with pytest.raises(SettingError, match="was made for a model"):
        moments_note(read_moments(tmp_path / "some"), another, [2], False)
    (file,) = deep.glob("*.npz")
    with ZipFile(file, "a") as archive:
        archive.comment = b""
    assert "made for an unknown model" in moments_note(read_moments(deep), another, [2], False)
    assert moments_note(read_moments(deep), another, [2], False, named=True) == ""
    (deep / PROVENANCE).write_text(json.dumps({"weights_sha256": model.weights_sha256}))
    assert moments_note(read_moments(tmp_path / "some"), model, [2], False) == ""
    with pytest.raises(SettingError, match=digits(model)):
        moments_note(read_moments(tmp_path / "some"), another, [2], False)
    for wrong in ("short", "G" * 64, "\x1b[2J", 5):
        (deep / PROVENANCE).write_text(json.dumps({"weights_sha256": wrong}))
        with pytest.raises(SettingError, match="not 64 hexadecimal digits"):
            moments_note(read_moments(deep), model, [2], False)
    (deep / PROVENANCE).write_text("{}")
    assert "made for an unknown model" in moments_note(read_moments(deep), model, [2], False)


def test_own_moments_never_pass_for_the_published_ones(moments, tiny) -> None:
    """Whatever became of the file that says where they come from, and of the names of their files."""
    decoder, told = tiny("tiny-gpt2").decoder, moments / PROVENANCE
    assert read_moments(moments).published(decoder) is None, "their files hold the hash of a model"
    for damaged in (b"damaged", b"[]", b"null", b"\xff", b"x" * 10_000_000):
        told.write_bytes(damaged)
        with pytest.raises(SettingError, match=rf"^{told}: .*; give the folder as kloc moments wrote it$"):
            read_moments(moments)
    told.write_text("{}")
    assert "other corpus: unknown" in read_moments(moments).source
    told.unlink()
    (file,) = moments.glob("*.npz")
    with ZipFile(file, "a") as archive:
        archive.comment = b""
    for count, named in (("100000", 100_000), ("²00", None), ("9" * 50, None)):
        file = file.rename(moments / moment_file(decoder, 2, count))
        assert read_moments(moments).published(decoder)["mom2_n_samples"] == named


def test_the_hash_is_no_array_of_the_published_layout(moments, tiny) -> None:
    (file,) = moments.glob("*.npz")
    assert file.name == moment_file(tiny("tiny-gpt2").decoder, 2, "300")
    assert set(np.load(file)) == {"mom2.constructor", "mom2.count", "mom2.mom2", "sample_size"}


def test_an_edit_of_another_model(other, moments, tiny, tmp_path, capsys) -> None:
    assert call(rome(TINY, tmp_path, "--moments", moments)) == 0
    out, cases = tmp_path / "scores.json", tmp_path / "cases.json"
    cases.write_text(json.dumps([json.loads((REFERENCE / "facts.json").read_text())[10]]))

    def score(model: Path, *more: str) -> int:
        command = ["score", "--model", model, "--cases", cases, "--edit", tmp_path / "e.st", "--json", out, *more]
        capsys.readouterr()
        return call([str(word) for word in command])

    assert score(TINY) == 0 and json.loads(out.read_text())["notes"] == []
    out.unlink()
    assert score(other) == 2
    said = capsys.readouterr().err
    theirs, own = digits(tiny("tiny-gpt2")), digits(load_folder(other))
    assert said.count("\n") == 1 and theirs in said and own in said and not out.exists()
    assert score(other, "--any-model") == 0
    (note,) = json.loads(out.read_text())["notes"]
    assert theirs in note and own in note and note in capsys.readouterr().out
    save_file(load_file(tmp_path / "e.st"), tmp_path / "e.st")  # as earlier versions wrote it
    assert score(other) == 0
    (note,) = json.loads(out.read_text())["notes"]
    assert "made for an unknown model" in note and note in capsys.readouterr().out


def test_a_mend_network_of_another_model(other, tiny, tmp_path, capsys) -> None:
    model, file = tiny("tiny-gpt2"), tmp_path / "network.safetensors"
    (tmp_path / "h.json").write_text(json.dumps({"layers": list(MendHparams(layers=(1, 2, 3)).layers)}))

    def edit(folder: Path, network: Path, *more: str) -> int:
        words = ["edit", "--model", folder, "--method", "mend", "--request", request(tmp_path)]
        words += ["--out", tmp_path / "e.st", "--mend-weights", network, *more]
        capsys.readouterr()
        return call([str(word) for word in words])

    write_network(read_network(NETWORK), file, {made_for.KEY: model.weights_sha256})
    assert edit(TINY, file) == 0 and "made for" not in capsys.readouterr().out
    assert edit(other, file) == 2 and digits(model) in capsys.readouterr().err
    assert edit(other, file, "--any-model") == 0 and "used all the same" in capsys.readouterr().out
    assert edit(other, NETWORK) == 0 and "made for an unknown model" in capsys.readouterr().out
    write_network(read_network(NETWORK), file, {made_for.KEY: "what"})
    assert edit(TINY, file) == 2 and "not 64 hexadecimal digits" in capsys.readouterr().err
