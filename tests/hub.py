"""A model hub on loopback that serves small models as if they were the real ones, for tests of fetching and `auto`."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

Odd = Callable[[BaseHTTPRequestHandler], bool]
"""Answers a request itself and says so, or leaves it to the hub."""


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories at a revision each; `asked` collects the paths of all requests.

    `damage` names files of which the next download arrives with one byte changed. `headers` of all answers go over its
    own; `odd` is asked first and may answer itself, then it says so.
    """

    daemon_threads = True

    def __init__(self, models: Mapping[str, tuple[Path, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.asked: list[str] = []
        self.damage: list[str] = []
        self.headers: dict[str, str] = {}
        self.odd: Odd = lambda handler: False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def in_use(self, patch: pytest.MonkeyPatch) -> None:
        """Let the hub's client ask this hub."""
        patch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.server
        path = unquote(urlparse(self.path).path)
        hub.asked.append(path)
        if hub.odd(self):
            self.close_connection = True
            return
        for repo, (folder, revision) in hub.models.items():
            if self._model(path, body, repo, folder, revision):
                return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _model(self, path: str, body: bool, repo: str, folder: Path, revision: str) -> bool:
        """Answer what is asked of one model; False when it is something else."""
        files = sorted(file.name for file in folder.iterdir())
        resolve = f"/{repo}/resolve/{revision}/"
        about = f"/api/models/{repo}"
        if path in (about, f"{about}/revision/{revision}", f"{about}/revision/main"):
            found = {"id": repo, "sha": revision, "siblings": [_sibling(folder / name) for name in files]}
            self._send(json.dumps(found).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith(f"/api/models/{repo}/tree/{revision}"):
            tree = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": _hash(folder / name)}
                for name in files
            ]
            self._send(json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith(resolve) and path.removeprefix(resolve) in files:
            file = folder / path.removeprefix(resolve)
            content = file.read_bytes()
            if body and file.name in self.server.damage:
                self.server.damage.remove(file.name)
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._send(content, body, {"ETag": f'"{_hash(file)}"', "X-Repo-Commit": revision})
        else:
            return False
        return True

    def _send(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | headers | self.server.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _sibling(file: Path) -> dict[str, object]:
    """A file as a listing with sizes has it: large ones with their sha256."""
    size = file.stat().st_size
    told = {"rfilename": file.name, "size": size, "blobId": _hash(file)}
    large = {"lfs": {"sha256": _hash(file), "size": size, "pointerSize": 9}}
    return told | (large if file.suffix in (".safetensors", ".bin") else {})


def _hash(file: Path) -> str:
    """Large files go by their sha256, as on the real hub."""
    large = file.suffix in (".safetensors", ".bin")
    return hashlib.new("sha256" if large else "sha1", file.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, repo: str, revision: str) -> Iterator[Hub]:
    """A hub that serves `folder` as the repository `repo` until the block ends."""
    with serving_all({repo: (folder, revision)}) as hub:
        yield hub


@contextmanager
def serving_all(models: Mapping[str, tuple[Path, str]]) -> Iterator[Hub]:
    """A hub that serves (folder, revision) by repository until the block ends."""
    hub = Hub(models)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join(5)


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    """An answer in full."""
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body)), "Connection": "close"} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def endless(block: bytes, pause: float, headers: dict[str, str], where: str = "/resolve/") -> Odd:
    """A body without a length that goes on until the client is gone."""

    def odd(handler: BaseHTTPRequestHandler) -> bool:
        if where not in handler.path or handler.command == "HEAD":
            return False
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(block)
                time.sleep(pause)
        return True

    return odd
