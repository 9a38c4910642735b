"""A file host on loopback that can fail in every way a real one does, for tests of fetching."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong: another status, or a body that ends or waits after so many bytes."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    wait_after: int | None = None


class FileHost(ThreadingHTTPServer):
    """Serves `files` by path. `faults` are used up one a request; `asked` collects (path, Range header)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.etags: dict[str, str] = {}
        self.gate = threading.Event()
        """What a waiting answer waits for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileHost

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        host = self.server
        path, asked = urlparse(self.path).path, self.headers.get("Range")
        host.asked.append((path, asked))
        fault = host.faults.pop(0) if host.faults else Fault()
        if fault.status or path not in host.files:
            self.send_response(fault.status or 404)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, etag = host.files[path], host.etags.get(path)
        start = 0
        if asked and host.ranges and self.headers.get("If-Range") in (None, etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        for name, value in {**({"ETag": etag} if etag else {}), **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        stop = fault.cut_after if fault.cut_after is not None else fault.wait_after
        if stop is None:
            self.wfile.write(content[start:])
            return
        self.wfile.write(content[start : start + stop])
        self.wfile.flush()
        if fault.wait_after is not None:
            host.gate.wait(30)
            with suppress(OSError):  # the client may be gone
                self.wfile.write(content[start + stop :])


@contextmanager
def hosting() -> Iterator[FileHost]:
    """A file host until the block ends."""
    host = FileHost()
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.gate.set()
        host.shutdown()
        host.server_close()
        thread.join(5)
