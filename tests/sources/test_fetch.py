"""Plain files: fetched once and verified always, by the pinned hash or the recorded one, then given out by path."""

import hashlib
from dataclasses import replace

import pytest
from samplefile import CONTENT, PATH, SHA256, source, whole

from artifact.errors import FactError, ModelError
from artifact.sources.cache import cache_folder, source_folder
from artifact.sources.catalogue import PLAIN_SOURCES, SOURCES
from artifact.sources.fetch import moments_folder, path_of
from artifact.sources.lock import recorded
from artifact.sources.verify import examine


def test_fetched_once_and_verified_always(host, told) -> None:
    wanted = source(host)
    assert told.fetch(wanted) == source_folder(wanted)
    whole(wanted)
    assert told.bytes[0] == (0, len(CONTENT)) and told.bytes[-1] == (len(CONTENT), len(CONTENT))
    told.fetch(wanted)
    assert len(host.asked) == 1, "what is there is not asked for again"
    path = source_folder(wanted) / "facts.data"
    path.write_bytes(CONTENT[:-1] + b"!")
    assert [finding.state for finding in examine(wanted)] == ["damaged"]
    told.fetch(wanted)
    assert "expected sha256 " + SHA256 in " ".join(told.lines)
    whole(wanted)


def test_a_file_put_there_by_hand_counts(host, told) -> None:
    wanted = source(host)
    source_folder(wanted).mkdir(parents=True)
    (source_folder(wanted) / "facts.data").write_bytes(CONTENT)
    told.fetch(wanted)
    whole(wanted)
    assert host.asked == []


def test_a_wrong_hash_keeps_nothing(host, told) -> None:
    host.files[PATH] = CONTENT[::-1]
    wanted = source(host)
    message = told.refused(wanted)
    got = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert f"expected sha256 {SHA256} (pinned), got {got}, nothing was kept" in message and "KLOC_MIRROR" in message
    assert [path.name for path in source_folder(wanted).iterdir()] == [".lock"]
    host.files[PATH] = CONTENT
    told.fetch(wanted)
    whole(wanted)


def test_first_hash_is_recorded_and_enforced(host, told) -> None:
    wanted = source(host, sha256=None, exact=False)
    told.fetch(wanted)
    path = source_folder(wanted) / "facts.data"
    path.unlink()
    host.files[PATH] = CONTENT[::-1]
    message = told.refused(wanted)
    assert f"expected sha256 {SHA256} (recorded in " in message and not path.exists()
    host.files[PATH] = CONTENT
    told.fetch(wanted)
    whole(wanted)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.npz", CONTENT, "it sent is not a whole archive"),
        ("m.json", CONTENT, "it sent is not a JSON object or list"),
        ("m.json", b'{"error": "no such', "it sent is not JSON ("),
        ("m.json", b'{"a": "\xa0"}', "it sent is not JSON ("),
        ("m.pt", b"PK", "it sent is not a file of torch weights"),
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0{}", "it sent is not a whole safetensors file"),
        ("m.safetensors", b"\xff" * 16, "it sent is not a safetensors file (its header does not fit into it)"),
        ("m.json", b"<!DOCTYPE html><title>Sign in</title>", "it sent is a web page"),
        ("m.json", b"", "it sent is an empty file"),
    ],
)
def test_what_is_no_such_file_is_not_recorded(host, told, name, content, says) -> None:
    host.files[f"/{name}"] = content
    message = told.refused(source(host, f"/{name}", sha256=None, exact=False))
    assert says in message and recorded(f"sample/{name}") is None


def test_offline_nothing_is_fetched(host, told, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is not in the cache, and HF_HUB_OFFLINE is set; unset it" in told.refused(source(host))
    assert host.asked == []


# Sizes and kinds of what is there already


def test_a_hash_blesses_no_file_of_another_size_or_kind(host, told) -> None:
    """A file that was put into the cache: recorded only when it is one; otherwise fetched again."""
    facts = b"[" + b"7," * 5000 + b"7]"
    host.files["/facts.json"] = facts
    wanted = source(host, "/facts.json", sha256=None, exact=False)
    path = source_folder(wanted) / "facts.json"
    path.parent.mkdir(parents=True)
    for content in (b"<html>Sign in</html>", b"no facts", b"[1,", b"", b"[" + b" " * 3 * len(CONTENT) + b"]"):
        path.write_bytes(content)
        assert [finding.state for finding in examine(wanted)] == ["damaged"]
        told.fetch(wanted)
        assert path.read_bytes() == facts
        (cache_folder() / "fetched.lock.json").unlink()
    path.write_bytes(facts[:-3] + b"]")
    assert [finding.state for finding in examine(wanted)] == ["new"]
    told.fetch(wanted)
    assert recorded("sample/facts.json").sha256 == hashlib.sha256(facts[:-3] + b"]").hexdigest()


def test_paths_are_given_out_by_size(host, monkeypatch) -> None:
    small = replace(PLAIN_SOURCES["relation"].files[0], size=10)
    relation = replace(PLAIN_SOURCES["mend-gpt2-xl"], files=(replace(small, name="m.pt"),))
    for table in (SOURCES, PLAIN_SOURCES):
        monkeypatch.setitem(table, "mend-gpt2-xl", relation)
    there = source_folder(relation) / "m.pt"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"x" * 30)
    assert path_of("mend-gpt2-xl") == there
    there.write_bytes(b"x" * 31)
    with pytest.raises(ModelError, match=r"expected at most 30 bytes, got 31; run kloc fetch mend-gpt2-xl"):
        path_of("mend-gpt2-xl")


# Paths


def test_paths_name_the_command_that_fetches(host, tmp_path) -> None:
    for name, remedy in (("counterfact", "counterfact"), ("rel_counterfact", "relation"), ("known", "known")):
        with pytest.raises(FactError, match=f"is not in the cache; run kloc fetch {remedy}$"):
            path_of(name)
    with pytest.raises(ModelError, match="run kloc fetch mend-gpt2-xl"):
        path_of("mend-gpt2-xl")
    with pytest.raises(ModelError, match=r"h\.13\..*run kloc fetch moments-gpt2-xl"):
        moments_folder("gpt2-xl")
    with pytest.raises(ModelError, match="no second moments are published"):
        moments_folder("gpt2")
    with pytest.raises(FactError, match="'relation' is not a file that is fetched"):
        path_of("relation")


def test_paths_of_what_is_there(host) -> None:
    for one in PLAIN_SOURCES.values():
        source_folder(one).mkdir(parents=True)
        for file in (*one.files, *one.members):
            (source_folder(one) / file.name).write_bytes(b"x")
    assert path_of("rel_known").name == "rel_known_1000.json"
    assert moments_folder("gpt-j") == source_folder(PLAIN_SOURCES["moments-gpt-j"])
    with pytest.raises(FactError, match=r"known_1000.json: expected 343229 bytes, got 1; run kloc fetch known"):
        path_of("known")
    assert path_of("mend-gpt-j").suffix == ".pt"
    path_of("mend-gpt-j").with_suffix(".safetensors").write_bytes(b"x")
    assert path_of("mend-gpt-j").suffix == ".safetensors"
