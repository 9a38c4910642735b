"""The hub's answers: what names a file, has no end, or belongs to another model never gets into the cache."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub import Hub, endless, send, serving

from artifact.cli import call
from artifact.errors import ModelError
from artifact.sources import download
from artifact.sources import hub as hub_module
from artifact.sources.cache import cache_folder, hub_file
from artifact.sources.catalogue import HUB_MODELS, SOURCES, HubModel
from artifact.sources.download import Patience
from artifact.sources.fetch import cached, fetch
from artifact.sources.lock import recorded

TINY = Path(__file__).parents[1] / "reference" / "models" / "tiny-gpt2"
SIZE = (TINY / "model.safetensors").stat().st_size


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubModel:
    """gpt2 with the tiny model's size and hash; the caches are below tmp_path/caches."""
    sha256 = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    small = replace(HUB_MODELS["gpt2"], size=SIZE, sha256=sha256, hashes={})
    for table in (SOURCES, HUB_MODELS):
        monkeypatch.setitem(table, "gpt2", small)
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "caches" / "kloc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "caches" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=1.5, tries=2, first_wait=0.01, longest_wait=1))
    return small


@pytest.fixture
def quick(model: HubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is looked at over 0.6 s, less than the client waits between two tries."""
    monkeypatch.setattr(download, "PATIENCE", replace(download.PATIENCE, window=0.6))


@pytest.fixture
def hub(model: HubModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(TINY, model.repo, model.revision) as serves:
        serves.in_use(monkeypatch)
        yield serves


def refused(model: HubModel, tmp_path: Path) -> str:
    """The one line; nothing is written outside the caches, and what is inside is taken for no model."""
    before = {path for path in tmp_path.rglob("*") if "caches" not in path.parts}
    with pytest.raises(ModelError) as error:
        fetch(model)
    message = str(error.value)
    assert message.isprintable() and message.startswith(("gpt2: openai-community/gpt2@607a30d7", "hub/gpt2/"))
    assert {path for path in tmp_path.rglob("*") if "caches" not in path.parts} == before
    assert not cached(model) and recorded("hub/gpt2/model.safetensors") is None
    return message


def test_what_the_hub_serves_is_verified_and_recorded(hub: Hub, model: HubModel) -> None:
    """By the way that loading takes, too; the weights by the pinned hash, the others as first seen."""
    folder = fetch(model)
    assert (folder / "model.safetensors").stat().st_size == SIZE
    for name in ("config.json", "tokenizer.json"):
        assert recorded(f"hub/gpt2/{name}").sha256 == hashlib.sha256((TINY / name).read_bytes()).hexdigest()
    hub.asked.clear()
    assert fetch(model) == folder and hub.asked == []


OUT = ["../../../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "x" * 300, "\x01", "\xe9", ""]


@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag"])
@pytest.mark.parametrize("told", OUT)
def test_an_etag_names_no_file(told: str, header: str, hub: Hub, model: HubModel, tmp_path: Path) -> None:
    hub.headers = {header: f'"{told}"'}
    assert f"{header} " in refused(model, tmp_path) and not list((tmp_path / "caches").rglob("*.safetensors*"))


@pytest.mark.parametrize("told", ["../../x", "/tmp/x", "0" * 40, "main", ""])
@pytest.mark.parametrize("missing", [False, True])
def test_a_commit_names_no_folder(told: str, missing: bool, hub: Hub, model: HubModel, tmp_path: Path) -> None:
    """In an answer with a file, and in one that says there is none, which the client notes in a folder, too."""

    def none(handler: BaseHTTPRequestHandler) -> bool:
        if "/resolve/" not in handler.path:
            return False
        send(handler, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": told})
        return True

    if missing:
        hub.odd = none
    else:
        hub.headers = {"X-Repo-Commit": told}
    assert "names the revision" in refused(model, tmp_path)
    assert not list((tmp_path / "caches").rglob(".no_exist"))


@pytest.mark.parametrize(
    ("name", "most"), [("model.safetensors", SIZE), ("config.json", 3_000_000), ("/tree/", 3_000_000)]
)
def test_a_body_has_an_end(
    name: str, most: int, hub: Hub, model: HubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SMALL", 3_000_000)
    hub.odd = endless(b" " * 100_000, 0.0, {}, name)
    assert f"the hub sends more than {most} bytes" in refused(model, tmp_path)


def test_less_than_the_lowest_rate_ends_it(hub: Hub, model: HubModel, tmp_path: Path, quick: None) -> None:
    hub.odd = endless(b"x", 0.05, {}, "model.safetensors")
    assert "less than 10 kB a second arrived over 0.6 s" in refused(model, tmp_path)


@pytest.mark.parametrize("where", ["/tree/", "config.json"])
def test_a_silent_hub_ends(where: str, hub: Hub, model: HubModel, tmp_path: Path, quick: None) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> bool:
        if where in handler.path:
            with suppress(OSError):
                handler.connection.recv(1)  # until the client is gone
            return True
        return False

    hub.odd = silent
    assert "less than 10 kB a second arrived" in refused(model, tmp_path)


def test_a_hub_that_cuts_every_answer_ends(hub: Hub, model: HubModel, tmp_path: Path, quick: None) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command == "HEAD" or "model.safetensors" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(SIZE))
        handler.end_headers()
        handler.wfile.write(b"x")
        return True

    hub.odd = cut
    assert "less than 10 kB a second arrived" in refused(model, tmp_path)


def test_a_listing_without_an_end_ends(
    hub: Hub, model: HubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MOST_REQUESTS", 20)

    def next_page(handler: BaseHTTPRequestHandler) -> bool:
        if "/tree/" not in handler.path:
            return False
        send(handler, 200, {"Link": f'<{hub.url}{handler.path}>; rel="next"'}, b"[]")
        return True

    hub.odd = next_page
    assert "has made its client ask 20 times" in refused(model, tmp_path)
    assert len(hub.asked) <= 20


def test_the_next_page_is_not_asked_for_without_tls(
    model: HubModel,
) -> None:
    """A listing from https that goes on at http, where a token could be read on the way."""
    guard = hub_module._Guard(model, download.PATIENCE)
    guard._endpoint = "https://hub"
    asked = SimpleNamespace(url="http://hub/api/models/x/tree/y", headers={}, extensions={})
    with pytest.raises(Exception, match="from https to http"):
        guard.on_request(asked)
    asked.url = "https://elsewhere/x"
    with pytest.raises(Exception, match="from https to http"):
        guard.on_request(asked)  # once refused, all is


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 2015 07:28:00 GMT", "0", "soon"])
def test_a_wait_that_is_short_or_none_is_not_refused(wait: str, hub: Hub, model: HubModel) -> None:
    turns = iter(range(100))

    def later(handler: BaseHTTPRequestHandler) -> bool:
        if "/tree/" not in handler.path or next(turns):
            return False
        send(handler, 503, {"Retry-After": wait})
        return True

    hub.odd = later
    assert fetch(model).is_dir()


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Location": "file:///etc/passwd"}, 302, "not http or https"),
        ({"Location": "ftp://127.0.0.1/x"}, 302, "not http or https"),
        ({"Location": "http://[::1"}, 302, "not an address"),
        ({"Content-Encoding": "gzip"}, 200, "encoded"),
        ({"Content-Length": "-5"}, 200, "cannot be fetched"),
        ({"Content-Length": "9" * 5000}, 200, "cannot be fetched"),
        ({"X-Linked-Size": "\xb2"}, 200, "is not a number"),
        ({"X-Linked-Size": "99999999999"}, 200, "expected"),
        ({"Retry-After": "1000000000"}, 429, "answers 429, and asks to wait"),
        ({"RateLimit": '"api";r=0;t=1000000000'}, 429, "answers 429, and asks to wait"),
        ({"Retry-After": "1000000000"}, 503, "answers 503, and asks to wait"),
    ],
)
def test_an_odd_answer_is_one_line(
    headers: dict[str, str], status: int, says: str, hub: Hub, model: HubModel, tmp_path: Path
) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "/resolve/" not in handler.path:
            return False
        told = {"ETag": '"x"', "X-Repo-Commit": model.revision}
        send(handler, status, told | headers)
        return True

    hub.odd = odd
    assert says in refused(model, tmp_path)


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b'[{"type": "file"}]', b"[1]", b'{"error": "\x1b[2J"}', b"\xff"]
)
def test_a_listing_that_is_none_is_one_line(body: bytes, hub: Hub, model: HubModel, tmp_path: Path) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "/tree/" not in handler.path:
            return False
        send(handler, 200, {"Content-Type": "application/json"}, body)
        return True

    hub.odd = odd
    refused(model, tmp_path)


def test_names_of_a_listing_lead_nowhere(hub: Hub, model: HubModel, tmp_path: Path) -> None:
    """Files that were not asked for are passed over, whatever they are called."""
    names = ["../../../x", "/tmp/x", "a\0b", "config.json/../../x", "config.json"]
    tree = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]

    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "/tree/" not in handler.path:
            return False
        send(handler, 200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
        return True

    hub.odd = odd
    assert "the hub does not have it" in refused(model, tmp_path)
    assert [path for path in hub.asked if "/resolve/" in path and "config.json" not in path] == []


def test_two_bytes_are_no_weights(hub: Hub, model: HubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the pinned size; where only an estimate is known, by their kind, and by three times the estimate."""

    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "/resolve/" not in handler.path or "model.safetensors" not in handler.path:
            return False
        send(handler, 200, {"ETag": '"weights"', "X-Repo-Commit": model.revision}, content)
        return True

    content = b"ok"
    hub.odd = odd
    assert f"model.safetensors: expected {SIZE} bytes, got 2" in refused(model, tmp_path)
    guessed = replace(model, exact=False, sha256=None)
    assert "hub/gpt2/model.safetensors: it is not a safetensors file" in refused(guessed, tmp_path)
    content = b"x" * (3 * SIZE + 1)
    assert f"expected at most {3 * SIZE} bytes, got {3 * SIZE + 1}" in refused(guessed, tmp_path)
    hub.odd = lambda handler: False
    assert fetch(guessed).is_dir()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_page_is_no_configuration(name: str, hub: Hub, model: HubModel, tmp_path: Path) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if not handler.path.endswith(name):
            return False
        send(handler, 200, {"ETag": '"page"', "X-Repo-Commit": model.revision}, b"<!DOCTYPE html><p>Sign in")
        return True

    hub.odd = odd
    with pytest.raises(ModelError, match=f"hub/gpt2/{name}: it is a web page; nothing of it was kept"):
        fetch(model)
    assert recorded(f"hub/gpt2/{name}") is None and hub_file(model, name) is None
    hub.odd = lambda handler: False
    assert fetch(model).is_dir()


def test_a_page_is_not_kept_when_another_file_failed(hub: Hub, model: HubModel, tmp_path: Path) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "tokenizer.json" in handler.path:
            send(handler, 200, {"ETag": '"page"', "X-Repo-Commit": model.revision}, b"{not}")
        elif "model.safetensors" in handler.path:
            time.sleep(0.3)  # after the other
            send(handler, 200, {"ETag": '"../x"', "X-Repo-Commit": model.revision})
        else:
            return False
        return True

    hub.odd = odd
    assert "cannot be the name of a file" in refused(model, tmp_path)
    assert hub_file(model, "tokenizer.json") is None


def test_wrong_weights_are_not_kept_when_another_file_failed(hub: Hub, model: HubModel, tmp_path: Path) -> None:
    """All that loading needs is there but verified: the next run would take it by its size."""

    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if "tokenizer_config.json" not in handler.path:
            return False
        time.sleep(0.5)  # after the others
        send(handler, 200, {"ETag": '"../x"', "X-Repo-Commit": model.revision})
        return True

    hub.odd = odd
    hub.damage.append("model.safetensors")
    assert "cannot be the name of a file" in refused(model, tmp_path)
    assert hub_file(model, "config.json") is not None and hub_file(model, "model.safetensors") is None


def test_what_is_in_the_cache_has_its_size_compared(hub: Hub, model: HubModel, capsys: pytest.CaptureFixture) -> None:
    """In a blob of its own; by loading it is refused, by kloc fetch it is fetched again."""
    weights = fetch(model) / "model.safetensors"
    weights.resolve().write_bytes(b"ok")
    with pytest.raises(ModelError, match=f"expected {SIZE} bytes, got 2; run kloc fetch gpt2 to fetch it again"):
        fetch(model)
    assert call(["fetch", "gpt2", "--check"]) == 2
    assert f"hub/gpt2/model.safetensors: damaged, expected {SIZE} bytes, got 2" in capsys.readouterr().err
    assert call(["fetch", "gpt2"]) == 0
    config = weights.with_name("config.json")
    config.resolve().write_bytes(config.read_bytes() + b" ")
    with pytest.raises(ModelError, match=r"config.json: expected \d+ bytes, got \d+; run kloc fetch gpt2"):
        fetch(model)


def test_check_says_what_nobody_has_verified(hub: Hub, model: HubModel, capsys: pytest.CaptureFixture) -> None:
    fetch(model)
    (cache_folder() / "fetched.lock.json").unlink()
    assert call(["fetch", "gpt2", "--check"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "whole    hub/gpt2/model.safetensors" in out
    unknown = [line for line in out if line.startswith("not verified  hub/gpt2/")]
    assert len(unknown) == len(out) - 1 >= 2
    assert "not verified  hub/gpt2/tokenizer.json: no hash is pinned or recorded" in unknown[1]
    assert call(["fetch", "gpt2"]) == 0 and call(["fetch", "gpt2", "--check"]) == 0
    assert "not verified" not in capsys.readouterr().out


def test_another_tokenizer_than_the_pinned_one_is_refused(
    hub: Hub, model: HubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = replace(model, hashes={"tokenizer.json": "1" * 64})
    for table in (SOURCES, HUB_MODELS):
        monkeypatch.setitem(table, "gpt2", pinned)
    message = refused(pinned, tmp_path)
    assert "hub/gpt2/tokenizer.json" in message and f"expected sha256 {'1' * 64} (pinned)" in message


def test_a_damaged_file_that_the_user_linked_to_is_kept(hub: Hub, model: HubModel, tmp_path: Path) -> None:
    weights = fetch(model) / "model.safetensors"
    (tmp_path / "mine").write_bytes(b"mine")
    weights.unlink()
    os.symlink(tmp_path / "mine", weights)
    assert call(["fetch", "gpt2"]) == 0
    assert (tmp_path / "mine").read_bytes() == b"mine" and weights.stat().st_size == SIZE


def test_the_clients_own_settings_are_as_before_after_it(hub: Hub, model: HubModel) -> None:
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_DISABLE_XET
    fetch(model)
    assert before == constants.HF_HUB_DISABLE_XET and not get_session().event_hooks["response"]
