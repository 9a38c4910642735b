"""Downloads: what a host, a disk or a kill cuts short is resumed or begun anew, and what it refuses is one line."""

import errno
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from filehost import Fault, FileHost
from samplefile import CONTENT, PATH, SHA256, ranges, source, whole

from artifact.errors import SettingError
from artifact.sources import download
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PlainFile, PlainSource
from artifact.sources.download import Patience
from artifact.sources.lock import recorded


def test_a_wrong_size_is_refused_before_the_first_byte(host, told) -> None:
    host.files[PATH] = CONTENT + b"more"
    assert f"expected {len(CONTENT)} bytes, got {len(CONTENT) + 4}" in told.refused(source(host))
    assert told.bytes == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_cut_body_is_resumed_where_it_can_be(host, told, known, etag) -> None:
    """Without a known hash, only a validator proves that both parts are of one file."""
    host.etags = {PATH: etag} if etag else {}
    host.faults = [Fault(cut_after=100_000), Fault(cut_after=50_000)]
    wanted = source(host, sha256=SHA256 if known else None, exact=known)
    told.fetch(wanted)
    whole(wanted)
    resumed = [None, "bytes=100000-", "bytes=150000-"]
    assert ranges(host) == (resumed if known or etag else [None] * 3)
    assert "cut after 100000 of 512000 bytes; again in 0.01 s" in told.lines[1]


def test_a_host_without_ranges_begins_anew(host, told) -> None:
    host.ranges, host.faults = False, [Fault(cut_after=100_000)]
    wanted = source(host)
    told.fetch(wanted)
    whole(wanted)
    assert ranges(host) == [None, "bytes=100000-"]


@pytest.mark.parametrize("header", [False, True])
def test_a_file_that_changed_between_its_parts_begins_anew(host, told, header) -> None:
    """By If-Range, and by the ETag of the part where the host does not know If-Range."""
    other = b"\0" * len(CONTENT)
    wanted = source(host, sha256=None, exact=False)
    host.faults = [Fault(cut_after=1000)] + [Fault(status=500)] * 2
    assert "answers 500, 3 times" in told.refused(wanted)
    host.files[PATH] = other
    if header:
        host.faults = [Fault(headers={"ETag": '"two"'})]
    else:
        host.etags[PATH] = '"two"'
    told.fetch(wanted)
    whole(wanted, other)
    anew = ["bytes=1000-", None] if header else ["bytes=1000-"]  # If-Range saves the second question
    assert ranges(host)[3:] == anew


def test_a_changed_file_without_validators_is_found_by_its_hash(host, told) -> None:
    host.etags.clear()
    host.files[PATH] = b"\0" * len(CONTENT)
    host.faults = [Fault(cut_after=1000)] + [Fault(status=500)] * 2
    wanted = source(host)
    told.refused(wanted)
    host.files[PATH] = CONTENT
    told.fetch(wanted)
    whole(wanted)
    assert "starting again" in told.lines[-1]


def test_a_silent_host_is_given_up_and_its_part_is_kept(host, told, monkeypatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=0.3, tries=3, first_wait=0.01))
    host.faults = [Fault(wait_after=1000), *[Fault(wait_after=0)] * 3]
    wanted = source(host)
    assert "silent for 0.3 s, 3 times" in told.refused(wanted)
    host.gate.set()
    told.fetch(wanted)
    whole(wanted)
    assert ranges(host)[-1] == "bytes=1000-"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=503), "answers 503; again in 0.01 s"),
        (Fault(status=429, headers={"Retry-After": "1"}), "answers 429; again in 1 s"),
        (Fault(status=429, headers={"Retry-After": formatdate(0)}), "answers 429; again in 0 s"),
        (Fault(status=302, headers={"Location": "/moved"}), None),
        (Fault(status=416), "has no such part; again in 0.01 s"),
    ],
)
def test_answers_that_pass(host, told, fault, says) -> None:
    host.faults = [fault]
    host.files["/moved"] = CONTENT
    wanted = source(host)
    told.fetch(wanted)
    whole(wanted)
    assert says is None or says in told.lines[1]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=404), "answers 404"),
        (Fault(status=429, headers={"Retry-After": "3600"}), "answers 429, and asks to wait 3600 s"),
        (Fault(headers={"Content-Type": "text/html"}), "answers with a web page"),
        (Fault(headers={"Content-Encoding": "gzip"}), "sends it encoded (gzip)"),
    ],
)
def test_answers_that_do_not_pass(host, told, fault, says) -> None:
    wanted = source(host, other_bytes="the same lies elsewhere as Parquet")
    host.faults = [fault]
    message = told.refused(wanted)
    assert f"127.0.0.1:{host.server_address[1]}: {says}" in message and message.endswith("elsewhere as Parquet")
    assert len(host.asked) == 1
    told.fetch(wanted)
    whole(wanted)


def test_mirrors_are_tried_in_order(host, told, monkeypatch) -> None:
    """The user's mirror first, with host and path kept below it, then the source, then the source's mirrors."""
    monkeypatch.setenv("KLOC_MIRROR", f"{host.url}/mirror/")
    host.files["/second.json"] = CONTENT
    wanted = source(host, "/absent/facts.data", "/second.json")
    told.fetch(wanted)
    whole(wanted)
    below = f"/mirror/127.0.0.1:{host.server_address[1]}"
    paths = [path for path, _ in host.asked]
    assert paths == [f"{below}/absent/facts.data", f"{below}/second.json", "/absent/facts.data", "/second.json"]
    assert recorded("sample/facts.data").url == f"{host.url}/second.json"
    monkeypatch.setenv("KLOC_MIRROR", "institute")
    with pytest.raises(SettingError, match="KLOC_MIRROR='institute' is not a URL"):
        told.fetch(source(host, "/other.json"))


def test_a_mirror_of_other_bytes_is_passed_over(host, told) -> None:
    host.files["/wrong/facts.data"] = CONTENT[::-1]
    told.fetch(source(host, "/wrong/facts.data", PATH))
    whole(source(host))


def test_the_environments_proxy_is_used(host, told, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", host.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    wanted = source(host)
    file = PlainFile(name="facts.data", urls=(f"http://files.invalid{PATH}",), size=len(CONTENT), sha256=SHA256)
    told.fetch(PlainSource(name="sample", files=(file,), licence="", citation="", purpose=""))
    whole(wanted)


def test_room_is_looked_for_before_the_first_byte(host, told, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
        message = told.refused(source(host))
    assert "needs 0.5 MB and has 0.0 MB free; make room, or set KLOC_CACHE" in message
    assert told.bytes == []
    told.fetch(source(host))
    whole(source(host))


def test_a_disk_that_fills_up_keeps_what_it_has(host, told, monkeypatch) -> None:
    wanted = source(host)
    host.faults = [Fault(cut_after=1000)]
    opened = download._unfinished

    class Full:
        def __init__(self, stream) -> None:
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, block: bytes) -> int:
            if self.stream.tell() >= 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(block)

    with monkeypatch.context() as patched:
        patched.setattr(download, "_unfinished", lambda path, anew: Full(opened(path, anew)))
        message = told.refused(wanted)
    assert "is full; make room and run the same command again: what was fetched is kept" in message
    told.fetch(wanted)
    whole(wanted)
    assert ranges(host)[-1] == "bytes=1000-"


# Processes

FETCH = """
import sys
from artifact.sources.fetch import fetch_source
from artifact.sources.catalogue import PlainFile, PlainSource
file = PlainFile(name="facts.data", urls=(sys.argv[1],), size=512000, exact=True, sha256=sys.argv[2])
source = PlainSource(name="sample", files=(file,), licence="", citation="", purpose="")
fetch_source(source, lambda line: print(line, flush=True), lambda done, total: None)
"""


def start(host: FileHost) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "-W", "error", "-c", FETCH, host.url + PATH, SHA256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept)


def until(true) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("never came")


def begun(wanted: PlainSource) -> int:
    part = source_folder(wanted) / "facts.data.part"
    return part.stat().st_size if part.exists() else 0


def test_killed_in_the_middle_it_goes_on(host, told) -> None:
    wanted = source(host)
    host.faults = [Fault(wait_after=300_000)]
    with start(host) as process:
        until(lambda: begun(wanted) >= 100_000)
        process.send_signal(signal.SIGKILL)
    kept = begun(wanted)
    told.fetch(wanted)
    whole(wanted)
    assert ranges(host) == [None, f"bytes={kept}-"]


def test_two_at_once_fetch_once(host) -> None:
    wanted = source(host)
    host.faults = [Fault(wait_after=1000)]
    with start(host) as first:
        until(lambda: begun(wanted) or len(host.asked) == 1)
        with start(host) as second:
            assert second.stdout.readline() == "sample: another process fetches it; waiting\n"
            host.gate.set()
            assert first.wait(30) == 0 and second.wait(30) == 0, (first.stderr.read(), second.stderr.read())
    whole(wanted)
    assert len(host.asked) == 1
