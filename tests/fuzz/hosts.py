"""Servers on loopback that answer `kloc fetch` in every wrong way: for plain files, an archive, a model of the hub."""

import hashlib
import io
import json
import os
import random
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from unittest import mock

from .box import Box, Case
from .damage import ANSI, MARKUP, byte_damage

_ENDLESS = 40 << 20
"""Bytes that an answer without an end stops at: a client that took them all has no bound."""
_MEMBER = "rel_data/rel_counterfact.json"
NAMES = (
    "../../elsewhere/evil.json",
    "/etc/evil.json",
    "a/../../evil.json",
    "..\\evil.json",
    "C:\\evil.json",
    "x" * 300,
    ANSI,
    MARKUP,
    "a\nb",
    "é",
    "",
    "/",
)
STATUS = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 200",
    b"HTTP/9.9 200 OK",
    b"ICY 200 OK",
    b"HTTP/1.1 999 odd",
    b"HTTP/1.1 -1 x",
    b"HTTP/1.1 20 OK",
    b"garbage",
    b"",
    b"HTTP/1.1 200 " + ANSI.encode(),
    b"HTTP/1.1 404 " + ANSI.encode(),
    b"HTTP/1.1 500 x",
    b"HTTP/1.1 503 x",
    b"HTTP/1.1 204 x",
    b"HTTP/1.1 304 x",
    b"HTTP/1.1 206 x",
    b"HTTP/1.1 416 x",
    b"HTTP/1.1 429 x",
    b"HTTP/1.1 401 x",
    b"HTTP/1.1 407 x",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 " + b"x" * 70000,
    b"HTTP/1.1 302 Found",
    b"HTTP/1.1 301 Moved",
    b"HTTP/1.1 308 Moved",
    b"HTTP/1.1 300 x",
)
HEADERS = (
    b"Content-Length: -5",
    b"Content-Length: abc",
    b"Content-Length: 1" + b"0" * 30,
    b"Content-Length: 3",
    b"Content-Length: 0",
    b"Content-Length: \xb2",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: " + ANSI.encode(),
    b"Content-Encoding: gzip",
    b"Content-Encoding: " + ANSI.encode(),
    b"Content-Type: text/html",
    b"Content-Type: " + ANSI.encode(),
    b'ETag: "../../../../elsewhere/evil"',
    b"ETag: ../../elsewhere/evil",
    b"ETag: /etc/passwd",
    b"ETag: " + b"x" * 5000,
    b"ETag: \xff\xfe",
    b"ETag: \xe9",
    b"ETag:",
    b"ETag: " + ANSI.encode(),
    b"Location: file:///etc/passwd",
    b"Location: ftp://127.0.0.1:9/x",
    b"Location: data:text/plain,x",
    b"Location: //",
    b"Location: \xff",
    b"Location: /again",
    b"Location: http://[::1",
    b"Location: http://127.0.0.1:99999/",
    b"Location: " + b"x" * 5000,
    b"Location: http://127.0.0.1:9/",
    b"Retry-After: -1",
    b"Retry-After: 1e99",
    b"Retry-After: \xb2",
    b"Retry-After: " + b"9" * 400,
    b"Retry-After: Fri, 99 Xxx 2020",
    b"Retry-After: 3600",
    b"Retry-After: Thu, 01 Jan 99999 00:00:00 GMT",
    b"Retry-After: 01 Jan 1970",
    b"Content-Range: bytes 0-1/2",
    b"Content-Range: bytes */*",
    b"Content-Range: bytes 0-9/1" + b"0" * 5000,
    b"Content-Range: \xb2",
    b"Last-Modified: " + b"x" * 70000,
    b"Last-Modified: \xff",
    b"X-Repo-Commit: ../../../elsewhere/evil",
    b"X-Repo-Commit: main",
    b'X-Linked-Etag: "../../../elsewhere/evil"',
    b"X-Linked-Size: -1",
    b"X-Linked-Size: x",
    b"X-Error-Code: EntryNotFound",
    b"X-Error-Code: GatedRepo",
    b"X-Error-Message: " + ANSI.encode(),
    b"no colon here",
    b": empty",
    b"a\x00b: c",
    b"X: y" * 30000,
    b"\r\n".join(b"X-%d: y" % n for n in range(150)),
    b"Content-Disposition: attachment; filename=../../elsewhere/evil",
    b"Set-Cookie: " + b"x" * 9000,
)


class Host:
    """Answers every path of `files`, the first ones damaged; `swallowed`: an answer without an end was taken whole."""

    def __init__(self, files: dict[str, bytes], draw: random.Random | None) -> None:
        self.files, self.swallowed, self._open = files, False, True
        self._plan = [] if draw is None else [_damage(draw) for _ in range(draw.choice((1, 1, 2, 12)))]
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._open = False
        with suppress(OSError):
            socket.create_connection(self._socket.getsockname()).close()
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while self._open:
            with suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            asked = b""
            while b"\r\n\r\n" not in asked:
                block = connection.recv(65536)
                if not block:
                    return
                asked += block
            verb, path = asked.split(b" ", 2)[:2]
            self._answer(connection, verb.decode("latin-1"), path.decode("latin-1").partition("?")[0])
            connection.shutdown(socket.SHUT_WR)

    def _answer(self, connection: socket.socket, verb: str, path: str) -> None:
        body = next(
            (
                content
                for name, content in self.files.items()
                if path == name or (name.endswith("*") and path.startswith(name[:-1]))
            ),
            None,
        )
        damage = self._plan.pop(0) if self._plan and verb == "GET" else {}
        if damage.get("drop"):
            return
        status = damage.get("status") or (b"HTTP/1.1 200 OK" if body is not None else b"HTTP/1.1 404 Not Found")
        body = body if body is not None else b""
        tag = hashlib.sha256(body).hexdigest() if len(body) > 100_000 else hashlib.sha1(body).hexdigest()
        heads = {
            b"content-length": b"Content-Length: %d" % len(body),
            b"etag": b'ETag: "%s"' % tag.encode(),
            b"x-repo-commit": b"X-Repo-Commit: " + REVISION.encode(),
        }
        for head in damage.get("heads", ()):
            heads[head.split(b":")[0].lower()] = head
        if "endless" in damage:
            heads.pop(b"content-length", None)
        sent = status + b"\r\n" + b"\r\n".join(heads.values()) + b"\r\nConnection: close\r\n\r\n"
        connection.sendall(sent)
        if verb == "HEAD":
            return
        if "endless" in damage:
            block = b"[" + b" " * 65535
            for _ in range(_ENDLESS // len(block)):
                connection.sendall(block)
            self.swallowed = True
        elif "body" in damage:
            connection.sendall(damage["body"](body))
        else:
            connection.sendall(body)


REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def _damage(draw: random.Random) -> dict[str, Any]:
    way = draw.choice(("status", "heads", "heads", "heads", "both", "body", "body", "endless", "drop", "none"))
    seed = draw.random()
    found: dict[str, Any] = {way: True}
    if way in ("status", "both"):
        found["status"] = draw.choice(STATUS)
    if way in ("heads", "both"):
        found["heads"] = draw.sample(HEADERS, draw.choice((1, 1, 3)))
    if way == "both" and draw.random() < 0.5:
        found["status"] = draw.choice(STATUS[-4:])
        found["heads"] = [draw.choice([head for head in HEADERS if head.startswith(b"Location")])]
    if way == "body":
        found["body"] = lambda body: byte_damage(random.Random(seed), body)[0]
    return found


def archive(draw: random.Random | None, records: bytes) -> bytes:
    """The relation archive; damaged in its list of members, where `draw` is given."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(_MEMBER, records)
        if draw is not None:
            for _ in range(draw.choice((1, 3))):
                name = draw.choice([name for name in NAMES if name])
                link = zipfile.ZipInfo(name[:200].replace("\0", ""))
                link.external_attr = draw.choice((0, 0o120777 << 16, 0o010644 << 16, 0o4777 << 16))
                made.writestr(
                    link,
                    draw.choice((b"../../elsewhere/precious", b"[]", b"\0" * 1_000_000, records[:100], b"[" * 100_000)),
                )
    content = stream.getvalue()
    return byte_damage(draw, content)[0] if draw is not None and draw.random() < 0.4 else content


@contextmanager
def hurried() -> Iterator[None]:
    """Nobody waits: time-outs of a second, and hardly any pause between tries."""
    from artifact.sources import download

    sleep = time.sleep
    with (
        mock.patch.object(
            download, "PATIENCE", replace(download.PATIENCE, stall_seconds=1.0, tries=2, first_wait=0.01)
        ),
        mock.patch.object(time, "sleep", lambda seconds: sleep(min(seconds, 0.02))),
    ):
        yield


@contextmanager
def _plain(box: Box, draw: random.Random | None, name: str, inside: bool) -> Iterator[Host]:
    from artifact.sources.catalogue import PLAIN_SOURCES, SOURCES

    records = (box.material / "training.json").read_bytes()
    right = archive(None, records) if name == "relation" else records
    content = archive(draw, records) if inside and draw is not None and name == "relation" else right
    source = PLAIN_SOURCES[name]
    pinned = name == "counterfact"
    sha256 = hashlib.sha256(right).hexdigest() if pinned else None
    files = tuple(
        replace(file, urls=(f"http://files.invalid/{file.name}",), size=len(right), exact=pinned, sha256=sha256)
        for file in source.files
    )
    host = Host({f"/files.invalid/{file.name}": content for file in files}, None if inside else draw)
    before = os.environ.get("KLOC_MIRROR")
    os.environ["KLOC_MIRROR"] = host.url
    small = replace(source, files=files)
    try:
        with hurried(), mock.patch.dict(SOURCES, {name: small}), mock.patch.dict(PLAIN_SOURCES, {name: small}):
            yield host
    finally:
        host.close()
        os.environ.pop("KLOC_MIRROR") if before is None else os.environ.__setitem__("KLOC_MIRROR", before)


@contextmanager
def _hub(box: Box, draw: random.Random | None) -> Iterator[Host]:
    from huggingface_hub import constants

    from artifact.sources.catalogue import HUB_MODELS, SOURCES

    model, folder = HUB_MODELS["gpt2"], box.material / "model"
    held = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in held.items()}
    sha256 = hashes.pop("model.safetensors")
    small = replace(model, size=len(held["model.safetensors"]), sha256=sha256, hashes=hashes)
    names = [
        *held,
        *(draw.sample([name for name in NAMES if name], 2) if draw is not None and draw.random() < 0.3 else []),
    ]
    about = json.dumps(
        {"id": model.repo, "sha": model.revision, "siblings": [{"rfilename": name} for name in names]}
    ).encode()
    tree = json.dumps(
        [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in held.items()]
    ).encode()
    files = {
        f"/api/models/{model.repo}/revision/{model.revision}": about,
        f"/api/models/{model.repo}": about,
        f"/api/models/{model.repo}/tree/{model.revision}*": tree,
    }
    files |= {f"/{model.repo}/resolve/{model.revision}/{name}": content for name, content in held.items()}
    host = Host(files, draw)
    template = host.url + "/{repo_id}/resolve/{revision}/{filename}"
    try:
        with (
            hurried(),
            mock.patch.dict(SOURCES, {"gpt2": small}),
            mock.patch.dict(HUB_MODELS, {"gpt2": small}),
            mock.patch.object(constants, "ENDPOINT", host.url),
            mock.patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
        ):
            yield host
    finally:
        host.close()


def case(draw: random.Random, box: Box) -> Case:
    what = draw.choice(("counterfact", "counterfact", "relation", "relation", "gpt2"))
    if what != "gpt2" and draw.random() < 0.25:
        return _cache(draw, what)
    inside = what == "relation" and draw.random() < 0.5
    seed = draw.random()
    hosts: list[Host] = []

    @contextmanager
    def host(box: Box, again: random.Random | None) -> Iterator[None]:
        drawn = None if again is None else random.Random(seed)
        with _hub(box, drawn) if what == "gpt2" else _plain(box, drawn, what, inside) as one:
            hosts.append(one)
            yield

    def check(before: Any, now: Any) -> str:
        from .judge import unequal

        return "an answer without an end was taken whole" if hosts[-1].swallowed else unequal(before, now)

    words = f"fetch {what}, {'odd archive' if inside else 'odd server'} ({seed:.4f})"
    return Case("servers", words, ["fetch", what], "said", {}, ("out", "cache", "hub"), check=check, host=host)


def _cache(draw: random.Random, what: str) -> Case:
    """What was fetched is damaged in the cache, or the hashes beside it; it is checked, or fetched again."""
    seed, way = draw.random(), draw.choice(("bytes", "bytes", "link", "pipe", "folder", "gone"))
    file = draw.choice(("fetched.lock.json", f"{what}/*.json", f"{what}/*.*", ".lock", f"{what}/.lock"))
    command = draw.choice((["fetch", what], ["fetch", what, "--check"], ["fetch"]))

    @contextmanager
    def host(box: Box, again: random.Random | None) -> Iterator[None]:
        from artifact.cli import call

        with _plain(box, None, what, False):
            assert call(["fetch", what]) == 0
            if again is not None:
                _spoil(random.Random(seed), box, file, way)
            yield

    def check(before: Any, now: Any) -> str:
        from .judge import unequal

        return unequal(before, now) if command == ["fetch", what] else ""

    words = f"cache after fetch {what}: {file}, {way} ({seed:.4f}); {' '.join(command)}"
    found = Case("servers", words, command, "said", {}, ("out", "cache", "hub"), check=check, host=host)
    found.several_lines = True
    found.fetches = command == ["fetch", what]  # else what is damaged stays as it is
    return found


def _spoil(draw: random.Random, box: Box, file: str, way: str) -> None:
    paths = sorted(box.cache.glob(file))
    for path in paths[:1]:
        content = path.read_bytes()
        path.unlink()
        if way == "bytes":
            path.write_bytes(byte_damage(draw, content)[0])
        elif way == "link":
            path.symlink_to(box.elsewhere / "precious")
        elif way == "pipe":
            os.mkfifo(path)
        elif way == "folder":
            (path / "full").mkdir(parents=True)
