"""Hosts that lie, dribble or never end: every fetch ends in one line, with nothing taken for the file."""

import hashlib
import os
import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filehost import hosting
from rawhost import answering

from artifact.cli import call
from artifact.errors import FactError, ModelError
from artifact.sources import download
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PLAIN_SOURCES, SOURCES, PlainFile, PlainSource
from artifact.sources.connection import Misled, check_address
from artifact.sources.download import Patience
from artifact.sources.fetch import fetch_source, path_of
from artifact.sources.lock import recorded
from artifact.sources.verify import examine

CONTENT = b"[" + b"7," * 5000 + b"7]"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(stall_seconds=5, tries=2, first_wait=0.01, longest_wait=1, rate=10_000, window=0.4, most_tries=6)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KLOC_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PATIENCE", QUICK)


def source(url: str, known: bool = True) -> PlainSource:
    file = PlainFile(
        name="facts.json", urls=(f"{url}/facts.json",), size=len(CONTENT), exact=known, sha256=SHA256 if known else None
    )
    return PlainSource(name="sample", files=(file,), licence="", citation="", purpose="")


def fetch(wanted: PlainSource) -> None:
    fetch_source(wanted, lambda line: None, lambda done, total: None)


def refused(wanted: PlainSource, within: float = 8.0) -> str:
    """The one line; nothing is kept under the file's name, and nothing is recorded."""
    began = time.monotonic()
    with pytest.raises(FactError) as error:
        fetch(wanted)
    assert time.monotonic() - began < within
    message = str(error.value)
    assert message.isprintable() and message.startswith("sample/facts.json: cannot be fetched")
    assert not (source_folder(wanted) / "facts.json").exists() and recorded("sample/facts.json") is None
    return message


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


BAD_HEADS = {
    "no status": (b"hello\r\n\r\n", "hello"),
    "a status without a number": (b"HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 abc"),
    "control characters": (b"HTTP/1.1 \x1b[2J\r\n\r\n", "?[2J"),
    "an endless status line": (b"HTTP/1.1 200 " + b"x" * 100_000, "line"),
    "a thousand headers": (head(*[f"X-{i}: 1" for i in range(1000)]), "100 headers"),
    "an endless header": (head("X: " + "x" * 100_000), "header line"),
    "a length that is a word": (head("Content-Length: many") + CONTENT, "not a number (many)"),
    "a negative length": (head("Content-Length: -5") + CONTENT, "not a number (-5)"),
    "a length of 5000 digits": (head("Content-Length: " + "9" * 5000) + CONTENT, "not a number (999"),
    "a length in other digits": (head("Content-Length: \xb2") + CONTENT, "not a number"),
    "more than is pinned": (head("Content-Length: 99999999") + CONTENT, "expected 10003 bytes, got 99999999"),
    "a part that was not asked for": (head("Content-Range: bytes 5-9/10", status="206 P") + b"12345", "another range"),
    "a range of words": (head("Content-Range: bytes a-b/c", status="206 P") + b"12345", "another range"),
    "a range of 5000 digits": (
        head("Content-Range: bytes 0-9/" + "9" * 5000, status="206 P") + b"12345", "another range"
    ),
    "chunks of no length": (head("Transfer-Encoding: chunked") + b"zz\r\nhello\r\n", "2 times"),
    "a negative chunk": (head("Transfer-Encoding: chunked") + b"-5\r\nhello\r\n", "2 times"),
    "an empty chunked body": (head("Transfer-Encoding: chunked") + b"0\r\n\r\n", "expected 10003 bytes, got 0"),
    "gzip": (head("Content-Encoding: gzip", "Content-Length: 10003") + CONTENT, "sends it encoded (gzip)"),
    "another success": (head("Content-Length: 0", status="204 No Content"), "answers 204"),
    "to a file": (head("Location: file:///etc/passwd", status="302 Found"), "not http or https"),
    "to ftp": (head("Location: ftp://127.0.0.1/x", status="302 Found"), "not http or https"),
    "to data": (head("Location: data:text/plain,hello", status="302 Found"), "not http or https"),
    "to a broken address": (head("Location: http://[::1", status="301 Moved"), "not an address"),
    "to a port of words": (head("Location: http://127.0.0.1:x/", status="301 Moved"), "nonnumeric port"),
    "to nowhere": (head(status="302 Found"), "answers 302"),
    "in a circle": (head("Location: /facts.json", status="302 Found"), "redirects without end"),
    "a wait of years": (head("Retry-After: 1000000000", status="503 Later"), "asks to wait 1000000000 s"),
    "a wait in other digits": (head("Retry-After: \xb2", status="503 Later"), "answers 503, 2 times"),
    "a wait until the year 99999": (head("Retry-After: Mon, 1 Jan 99999 0:0:0 GMT", status="503 Later"), "answers 503"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_HEADS)
def test_an_odd_answer_is_one_line(name: str) -> None:
    answer, says = BAD_HEADS[name]
    with answering(answer) as host:
        message = refused(source(host.url))
        assert says in message
        assert len(host.asked) <= 2 * 6 + 1, "tries and redirects have an end"


def endless(begins: bytes, block: bytes, pause: float = 0.0):
    """An answer that begins with `begins` and goes on with `block` until the client is gone."""

    def answer(connection: socket.socket, asked: bytes) -> None:
        connection.sendall(begins)
        while True:
            connection.sendall(block)
            time.sleep(pause)

    return answer


BLOCK = b"7," * 30_000
DRIBBLES = {
    "bytes": (head("Content-Length: 10003"), b"7"),
    "a status line": (b"HTTP/1.1 2", b"0"),
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "go on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's length": (head("Transfer-Encoding: chunked") + b"1;x=", b"x"),
}


@pytest.mark.parametrize("name", DRIBBLES)
def test_what_dribbles_is_ended_by_its_rate(name: str) -> None:
    """Each wait is short, so that no time-out is met; the rate over a window ends it."""
    with answering(endless(*DRIBBLES[name], pause=0.05)) as host:
        assert "gives less than 10 kB a second over 0.4 s, 2 times" in refused(source(host.url))


def test_tls_that_dribbles_is_ended_by_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record's header that promises 16 kB, then a byte now and then: the connection is held before TLS."""
    monkeypatch.setattr(download, "PATIENCE", replace(QUICK, tries=1))
    with answering(endless(b"\x16\x03\x03\x40\x00", b"\x02", pause=0.05)) as host:
        assert "gives less than" in refused(source(f"https://{host.address}"))


def test_a_body_of_unknown_length_that_was_cut_is_not_whole() -> None:
    with answering(endless(head() + CONTENT, b" ", pause=0.05)) as host:
        assert "gives less than" in refused(source(host.url, known=False))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_what_has_no_end_is_ended_by_its_size(known: bool, chunked: bool) -> None:
    """By the pinned size, or three times an estimate, where the host tells no length."""
    block = b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK
    with answering(endless(head(*["Transfer-Encoding: chunked"] * chunked), block)) as host:
        assert f"sends more than {len(CONTENT) * (1 if known else 3)} bytes" in refused(source(host.url, known))
        assert len(host.asked) == 1


def test_a_length_beyond_the_estimate_is_refused_before_the_first_byte() -> None:
    with answering(head(f"Content-Length: {3 * len(CONTENT) + 1}")) as host:
        assert "expected about 10003 bytes, 30009 at most, got 30010" in refused(source(host.url, known=False))


def test_a_redirect_with_an_endless_body_is_not_read() -> None:
    def answer(connection: socket.socket, asked: bytes) -> None:
        if b"/moved" in asked:
            connection.sendall(head(f"Content-Length: {len(CONTENT)}") + CONTENT)
        else:
            endless(head("Location: /moved", status="302 Found"), BLOCK)(connection, asked)

    with answering(answer) as host:
        fetch(source(host.url))
        assert path(host.url).read_bytes() == CONTENT


def path(url: str) -> Path:
    return source_folder(source(url)) / "facts.json"


def test_one_byte_a_try_has_an_end() -> None:
    """A host that goes on by one byte each time makes no progress worth the name."""

    def answer(connection: socket.socket, asked: bytes) -> None:
        start = int(asked.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        lines = [f"Content-Length: {len(CONTENT) - start}", 'ETag: "one"']
        if start:
            lines.append(f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        connection.sendall(head(*lines, status="206 P" if start else "200 OK") + CONTENT[start : start + 1])

    with answering(answer) as host:
        assert "cut after 2 of 10003 bytes, 2 times" in refused(source(host.url))


def test_a_run_of_tries_has_an_end_though_each_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket, asked: bytes) -> None:
        start = int(asked.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        lines = [f"Content-Length: {len(CONTENT) - start}"]
        if start:
            lines.append(f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        connection.sendall(head(*lines, status="206 P" if start else "200 OK") + CONTENT[start : start + 1000])

    monkeypatch.setattr(download, "PATIENCE", replace(QUICK, rate=1.0))
    with answering(answer) as host:
        assert "cut after 6000 of 10003 bytes, 6 times" in refused(source(host.url))
        assert len(host.asked) == 6
        fetch(source(host.url))  # what was fetched is kept, so that the same command goes on
        assert path(host.url).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ["../../x", "a\r\n b", "x" * 5000, "\x7f\x1b[2J", "\xff"])
def test_an_etag_that_cannot_be_sent_back_is_not_kept(etag: str) -> None:
    answer = head(f"ETag: {etag}", f"Content-Length: {len(CONTENT)}") + CONTENT[:100]
    with answering(answer) as host:
        assert "cut after 100 of 10003 bytes, 2 times" in refused(source(host.url))
    names = {file.name for file in source_folder(source("http://x")).parent.rglob("*")}
    assert names <= {"sample", ".lock", "facts.json.part", "facts.json.part.json"}


def test_https_does_not_lead_to_http() -> None:
    check_address("http://127.0.0.1/x", "https://host/x")
    check_address("http://localhost:80/x", "https://host/x")
    check_address("http://other/x", "http://mirror/x")
    check_address("https://other/x", "https://host/x")
    for to in ("http://host/x", "http://other/x", "http://127.0.0.1.host/x"):
        with pytest.raises(Misled, match="from https to http"):
            check_address(to, "https://host/x")
    for to in ("file:///x", "ftp://host/x", "x", "http:///x", "http://[::1"):
        with pytest.raises(Misled):
            check_address(to, "http://host/x")


NO_ADDRESSES = ["mirror", "http://[::1", "http://", "http://h:x", "http://a b", "http://h\x7f", "ftp://h"]


@pytest.mark.parametrize("given", NO_ADDRESSES)
def test_a_mirror_that_is_no_address_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("KLOC_MIRROR", given)
    assert call(["fetch", "known"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: KLOC_MIRROR=") and "is not a URL" in error and error[:-1].isprintable()


def test_a_proxy_that_is_no_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://[::1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    refused(source("http://host.invalid"))


def test_any_damaged_answer_ends_in_the_file_or_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes changed, cut out and put in at random places of a good answer's head."""
    monkeypatch.setattr(download, "PATIENCE", replace(QUICK, stall_seconds=0.2, tries=1))
    drawn = random.Random(13)
    good = head(
        f"Content-Length: {len(CONTENT)}", 'ETag: "one"', "Content-Type: application/json",
        "Retry-After: 1", "Content-Range: bytes 0-9/10", "Transfer-Encoding: identity", "Location: /x",
    )  # fmt: skip
    pieces = (b"\0", b"\xff", b"\r\n", b":", b"9" * 30, b"chunked", b"-1", b"302", b"206", b"\x1b[2J", b" ")

    def answer(connection: socket.socket, asked: bytes) -> None:
        content = bytearray(good)
        for _ in range(drawn.randint(1, 3)):
            at = drawn.randrange(len(content))
            content[at : at + drawn.choice((0, 1, 3, 40))] = drawn.choice(pieces)
        connection.sendall(content + CONTENT)

    with answering(answer) as host:
        for _ in range(80):
            wanted = source(host.url)
            try:
                fetch(wanted)
            except FactError as error:
                assert str(error).isprintable()
            else:
                assert path(host.url).read_bytes() == CONTENT
            for file in source_folder(wanted).iterdir():
                file.unlink()
            (source_folder(wanted).parent / "fetched.lock.json").unlink(missing_ok=True)


# What stands in the way


def test_a_link_as_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    with hosting() as host:
        host.files["/facts.json"] = CONTENT
        wanted = source(host.url)
        source_folder(wanted).mkdir(parents=True)
        for name in ("facts.json", "facts.json.part", "facts.json.part.json"):
            (source_folder(wanted) / name).symlink_to(tmp_path / "mine")
        fetch(wanted)
        for name in ("facts.json.part", "facts.json.part.json"):
            (source_folder(wanted) / name).symlink_to(tmp_path / "not there")
        path(host.url).unlink()
        fetch(wanted)
    assert (tmp_path / "mine").read_bytes() == b"mine" and not (tmp_path / "not there").exists()
    assert path(host.url).read_bytes() == CONTENT and not path(host.url).is_symlink()
    assert {file.name for file in source_folder(wanted).iterdir()} == {"facts.json", ".lock"}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", ["facts.json.part", "facts.json.part.json", "facts.json", ".lock"])
def test_what_is_not_a_file_is_refused_at_once(name: str, kind: str) -> None:
    with hosting() as host:
        host.files["/facts.json"] = CONTENT
        wanted = source(host.url)
        source_folder(wanted).mkdir(parents=True)
        other = source_folder(wanted) / name
        os.mkfifo(other) if kind == "pipe" else other.mkdir()
        began = time.monotonic()
        with pytest.raises(FactError, match=r"(?i)is not a regular file"):
            fetch(wanted)
        assert time.monotonic() - began < 2 and host.asked == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", ["fetched.lock.json", ".lock"])
def test_the_caches_own_files_are_files(name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    if kind == "link":
        (cache / name).symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(cache / name) if kind == "pipe" else (cache / name).mkdir()
    with hosting() as host:
        host.files["/facts.json"] = CONTENT
        began = time.monotonic()
        with pytest.raises(FactError) as error:
            fetch(source(host.url))
    assert time.monotonic() - began < 2 and str(error.value).isprintable() and str(cache) in str(error.value)
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("setting", ["KLOC_CACHE", "HF_HUB_CACHE"])
@pytest.mark.parametrize("kind", ["5,000 characters", "a long name", "a file", "below a file", "a link to nothing"])
@pytest.mark.parametrize("arguments", [["fetch"], ["fetch", "gpt2"], ["fetch", "--check"], ["fetch", "known"]])
def test_a_cache_that_is_no_folder_is_one_line(
    setting: str, kind: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("KLOC_MIRROR", "http://127.0.0.1:9")
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    place = {
        "5,000 characters": tmp_path / "/".join(["x" * 99] * 50),
        "a long name": tmp_path / ("x" * 300),
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "a link to nothing": tmp_path / "link",
    }[kind]
    if setting == "KLOC_CACHE":
        monkeypatch.setenv("KLOC_CACHE", str(place))
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    if setting == "HF_HUB_CACHE" and arguments == ["fetch", "known"]:
        return
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and "folder of your own" in error


@pytest.mark.parametrize("given", ["hub", "file:///etc", "http://", "https://[::1", "http://host:port", ""])
def test_an_endpoint_that_is_no_address_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_ENDPOINT", given)
    assert call(["fetch", "gpt2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kloc: HF_ENDPOINT={given!r} is not an address") and error.count("\n") == 1


def test_an_endpoint_with_which_the_client_cannot_be_imported_is_refused_by_all(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Others harm no command that asks no hub."""
    command = ["trace", "--model", "world", "--prompt", "a", "--subject", "a"]
    monkeypatch.setenv("HF_ENDPOINT", "https://[::1")
    assert call(command) == 2
    assert capsys.readouterr().err.startswith("kloc: HF_ENDPOINT='https://[::1' is not an address")
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert call(command) == 2 and "HF_ENDPOINT" not in capsys.readouterr().err


# Sizes and kinds of what is there already


def test_a_hash_blesses_no_file_of_another_size_or_kind(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A file that was put into the cache: recorded only when it is one; otherwise fetched again."""
    with hosting() as host:
        host.files["/facts.json"] = CONTENT
        wanted = source(host.url, known=False)
        source_folder(wanted).mkdir(parents=True)
        for content in (b"<html>Sign in</html>", b"no facts", b"[1,", b"", CONTENT + b" " * 3 * len(CONTENT)):
            path(host.url).write_bytes(content)
            assert [finding.state for finding in examine(wanted)] == ["damaged"]
            fetch(wanted)
            assert path(host.url).read_bytes() == CONTENT
            (source_folder(wanted).parent / "fetched.lock.json").unlink()
        path(host.url).write_bytes(CONTENT[:-3] + b"]")
        assert [finding.state for finding in examine(wanted)] == ["new"]
        fetch(wanted)
        assert recorded("sample/facts.json").sha256 == hashlib.sha256(CONTENT[:-3] + b"]").hexdigest()


def test_paths_are_given_out_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
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
