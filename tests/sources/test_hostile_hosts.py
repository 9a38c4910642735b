"""Hosts that lie, dribble or never end: every fetch ends in one line, with nothing taken for the file."""

import hashlib
import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rawhost import answering

from artifact.errors import FactError
from artifact.sources import download
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PlainFile, PlainSource
from artifact.sources.connection import Misled, check_address
from artifact.sources.download import Patience
from artifact.sources.fetch import fetch_source
from artifact.sources.lock import recorded

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


def refused(wanted: PlainSource) -> str:
    """The one line; nothing is kept under the file's name, and nothing is recorded."""
    with pytest.raises(FactError) as error:
        fetch(wanted)
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


def in_pieces(count: int, *more: str):
    """An answer of `count` bytes from where it was asked to begin, with a length that promises all."""

    def answer(connection: socket.socket, asked: bytes) -> None:
        start = int(asked.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        lines = [f"Content-Length: {len(CONTENT) - start}", *more]
        if start:
            lines.append(f"Content-Range: bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        connection.sendall(head(*lines, status="206 P" if start else "200 OK") + CONTENT[start : start + count])

    return answer


def test_one_byte_a_try_has_an_end() -> None:
    """A host that goes on by one byte each time makes no progress worth the name."""
    with answering(in_pieces(1, 'ETag: "one"')) as host:
        assert "cut after 2 of 10003 bytes, 2 times" in refused(source(host.url))


def test_a_run_of_tries_has_an_end_though_each_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", replace(QUICK, rate=1.0))
    with answering(in_pieces(1000)) as host:
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
