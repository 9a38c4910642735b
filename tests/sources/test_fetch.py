"""Plain files: what arrives, what is refused, and that the same call again finishes the work."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from filehost import Fault, FileHost, hosting

from artifact.errors import FactError, ModelError, SettingError
from artifact.sources import download
from artifact.sources.cache import source_folder
from artifact.sources.catalogue import PLAIN_SOURCES, PlainFile, PlainSource
from artifact.sources.download import Patience
from artifact.sources.fetch import fetch_source, moments_folder, path_of
from artifact.sources.lock import recorded
from artifact.sources.verify import examine

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/data/facts.data"


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KLOC_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PATIENCE", Patience(stall_seconds=10, tries=3, first_wait=0.01, longest_wait=1.5))
    with hosting() as serving:
        serving.files[PATH] = CONTENT
        serving.etags[PATH] = '"one"'
        yield serving


def source(host: FileHost, *paths: str, sha256: str | None = SHA256, exact: bool = True, **more) -> PlainSource:
    urls = tuple(host.url + path for path in paths or (PATH,))
    file = PlainFile(name=Path(urls[0]).name, urls=urls, size=len(CONTENT), exact=exact, sha256=sha256)
    return PlainSource(name="sample", files=(file,), licence="MIT", citation="none", purpose="tests", **more)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes: list[tuple[int, int | None]] = []

    def fetch(self, wanted: PlainSource) -> Path:
        return fetch_source(wanted, self.lines.append, lambda done, total: self.bytes.append((done, total)))

    def refused(self, wanted: PlainSource) -> str:
        with pytest.raises(FactError) as error:
            self.fetch(wanted)
        message = str(error.value)
        assert "\n" not in message and message.startswith("sample/"), "one line that names the file"
        return message


@pytest.fixture
def told() -> Told:
    return Told()


def whole(wanted: PlainSource, content: bytes = CONTENT) -> None:
    """The file is there, recorded, and nothing unfinished beside it."""
    folder, name = source_folder(wanted), wanted.files[0].name
    assert (folder / name).read_bytes() == content
    assert recorded(f"sample/{name}").sha256 == hashlib.sha256(content).hexdigest()
    assert not list(folder.glob("*.part*"))


def ranges(host: FileHost) -> list[str | None]:
    return [asked for _, asked in host.asked]


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
    assert "beginning anew" in told.lines[-1]


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


def test_room_is_looked_for_before_the_first_byte(host, told, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
        message = told.refused(source(host))
    assert "needs 0.00 GB and has 0.00 GB free; make room, or set KLOC_CACHE" in message
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


def test_offline_nothing_is_fetched(host, told, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is not in the cache, and HF_HUB_OFFLINE is set; unset it" in told.refused(source(host))
    assert host.asked == []


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
    for source in PLAIN_SOURCES.values():
        source_folder(source).mkdir(parents=True)
        for file in (*source.files, *source.members):
            (source_folder(source) / file.name).write_bytes(b"x")
    assert path_of("rel_known").name == "rel_known_1000.json"
    assert moments_folder("gpt-j") == source_folder(PLAIN_SOURCES["moments-gpt-j"])
    with pytest.raises(FactError, match=r"known_1000.json: expected 343229 bytes, got 1; run kloc fetch known"):
        path_of("known")
    assert path_of("mend-gpt-j").suffix == ".pt"
    path_of("mend-gpt-j").with_suffix(".safetensors").write_bytes(b"x")
    assert path_of("mend-gpt-j").suffix == ".safetensors"
