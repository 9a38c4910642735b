"""The sources as data: complete, consistent, and as the protocol names them."""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import msgspec
import pytest

from artifact.errors import FactError
from artifact.sources.cache import cache_folder, converted_folder
from artifact.sources.catalogue import GROUPS, HUB_MODELS, PLAIN_SOURCES, SOURCES, WORLD
from artifact.sources.lock import COMMITTED, RECORDED, entry_of, expected_of, forget, record, recorded

SHA256 = re.compile("[0-9a-f]{64}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))


def test_every_source_says_what_it_is() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.licence and source.citation and source.purpose and source.size > 0
        assert re.fullmatch("[a-z0-9-]+", name) and name not in GROUPS
    assert set(GROUPS["full"]) == set(SOURCES) - {"gpt2", "lre"}


def test_models_are_pinned() -> None:
    for model in HUB_MODELS.values():
        assert re.fullmatch("[0-9a-f]{40}", model.revision) and model.weights in model.files
        assert set(model.needed) <= set(model.files)
        assert SHA256.fullmatch(model.sha256) and all(map(SHA256.fullmatch, model.hashes.values()))
        assert set(model.hashes) <= set(model.files) - {model.weights}
        assert model.pickled == (not model.weights.endswith(".safetensors"))
        assert converted_folder(model).name == f"{model.name}-{model.revision[:8]}"


def test_gpt2s_vocabulary_is_openais(gpt2_vocabulary: Path) -> None:
    """A package carries OpenAI's encoder.json and vocab.bpe, which the hub has under other names."""
    for ours, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        found = hashlib.sha256((gpt2_vocabulary / theirs).read_bytes()).hexdigest()
        assert found == HUB_MODELS["gpt2"].hashes[ours] == HUB_MODELS["gpt2-xl"].hashes[ours]


def test_gptjs_vocabulary_is_openais_written_anew(gpt2_vocabulary: Path) -> None:
    """The same entries in another form: compact JSON, and another first line of the merges."""
    words = json.loads((gpt2_vocabulary / "encoder.json").read_bytes())
    compact = json.dumps(words, ensure_ascii=False, separators=(",", ":")).encode()
    assert hashlib.sha256(compact).hexdigest() == HUB_MODELS["gpt-j"].hashes["vocab.json"]
    _, _, merges = (gpt2_vocabulary / "vocab.bpe").read_bytes().partition(b"\n")
    written = b"#version: 0.2 - Trained by `huggingface/tokenizers`\n" + merges
    assert hashlib.sha256(written).hexdigest() == HUB_MODELS["gpt-j"].hashes["merges.txt"]


def test_plain_files_are_addressed_and_hashed() -> None:
    for source in PLAIN_SOURCES.values():
        names = [file.name for file in source.files] + [member.name for member in source.members]
        assert len(set(names)) == len(names)
        assert not source.members or [PurePosixPath(file.name).suffix for file in source.files] == [".zip"]
        for file in source.files:
            assert file.urls and (file.sha256 is None or SHA256.fullmatch(file.sha256))
            assert file.exact == (file.sha256 is not None), "a size is known exactly where the bytes are"
            for url in file.urls:
                parts = urlsplit(url)
                assert parts.scheme == "https" and parts.path.endswith(f"/{file.name}") and not parts.query


def test_published_moments_cover_the_layers_that_are_edited() -> None:
    from artifact.editing.methods import METHODS

    for model, part, layers in (("gpt2-xl", "c_proj", 48), ("gpt-j", "fc_out", 28)):
        names = [file.name for file in PLAIN_SOURCES[f"moments-{model}"].files]
        for method in ("rome", "memit"):
            for layer in METHODS[method].hparams_for(model, layers).layers:
                assert f"transformer.h.{layer}.mlp.{part}_float32_mom2_100000.npz" in names


def test_the_committed_lock_names_files_that_exist() -> None:
    keys = {f"{s.name}/{file.name}" for s in PLAIN_SOURCES.values() for file in (*s.files, *s.members)}
    keys |= {f"hub/{model.name}/{name}" for model in HUB_MODELS.values() for name in model.files}
    locked = json.loads(COMMITTED.read_bytes())
    assert set(locked) == {"files"}
    for key, entry in locked["files"].items():
        assert key in keys and SHA256.fullmatch(entry["sha256"]) and entry["size"] > 0


def test_a_hash_is_pinned_before_it_is_committed_before_it_is_recorded(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    assert expected_of("a/file") is None
    record("a/file", entry_of(file))
    found = expected_of("a/file")
    assert found.sha256 == hashlib.sha256(b"one").hexdigest() and "first fetched" in found.by
    committed = tmp_path / "committed.json"
    committed.write_bytes(msgspec.json.encode({"files": {"a/file": {"sha256": "2" * 64, "size": 3}}}))
    monkeypatch.setattr("artifact.sources.lock.COMMITTED", committed)
    assert expected_of("a/file").sha256 == "2" * 64
    assert expected_of("a/file", "1" * 64).sha256 == "1" * 64


def test_records_are_kept_and_forgotten_one_by_one(tmp_path) -> None:
    for key, content in (("b/2", b"two"), ("a/1", b"one")):
        (tmp_path / "file").write_bytes(content)
        record(key, entry_of(tmp_path / "file", made_from="0" * 64))
    assert list(json.loads((cache_folder() / RECORDED).read_bytes())["files"]) == ["a/1", "b/2"]
    forget("a/1")
    assert recorded("a/1") is None
    assert recorded("b/2").made_from == "0" * 64 and recorded("b/2").size == 3


def test_a_damaged_lock_file_is_no_free_pass() -> None:
    cache_folder().mkdir()
    (cache_folder() / RECORDED).write_bytes(b'{"files": {"a/file": {"sha": 1}}}')
    with pytest.raises(FactError, match=r"fetched\.lock\.json: is not a lock file .*; delete it"):
        expected_of("a/file")


def test_the_cache_goes_where_users_expect_it(monkeypatch, tmp_path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("KLOC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "kloc"
    assert WORLD.is_dir()
