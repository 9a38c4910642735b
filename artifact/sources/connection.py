"""One request over HTTP that ends: its rate is watched, and a redirect leads to no other kind of address.

Covers opening an address with the standard library's client and ending a transfer that has become too slow, whatever it
waits for. What the answer holds is download.py's; the hub's own client is watched by hub.py with the same `Watch`.
"""

import http.client
import ipaddress
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

_MOST_REDIRECTS = 5


class Misled(Exception):
    """An address, or a redirect, that is not followed; says why in words that follow a host's name."""


class Watch:
    """While it is entered, calls `end` once when in some `window` seconds fewer than `rate` bytes a second arrived.

    `arrived` gives the bytes so far; `slow` says afterwards whether it was ended.
    """

    def __init__(self, rate: float, window: float, arrived: Callable[[], int], end: Callable[[], None]) -> None:
        self.slow = False
        self._least, self._window, self._arrived, self._end = rate * window, window, arrived, end
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        before, since = self._arrived(), time.monotonic()
        while not self._done.wait(min(1.0, self._window / 10)):
            if time.monotonic() - since < self._window:
                continue
            now = self._arrived()
            if now - before < self._least:
                self.slow = True
                self._end()
                return
            before, since = now, time.monotonic()


class Line:
    """The connections of one request, which another thread can cut: a wait for the next byte ends at once."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._cut = False

    def hold(self, connected: socket.socket) -> None:
        """Keep a second handle, which still cuts the connection when TLS has taken over the first."""
        self._sockets.append(connected.dup())
        if self._cut:
            self.cut()

    def cut(self) -> None:
        """End every connection; one that is opened later is ended at once."""
        self._cut = True
        for held in self._sockets:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the handles back."""
        while self._sockets:
            self._sockets.pop().close()


def open_address(url: str, headers: Mapping[str, str], seconds: float, line: Line) -> http.client.HTTPResponse:
    """The answer to a GET of `url`, which waits at most `seconds` for each part of it; errors are urllib's and Misled.

    http and https alone, at most five redirects, none from https to http but to this machine. Proxies are taken from
    the environment (http_proxy, https_proxy, no_proxy).
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Connections(line),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers=dict(headers))
    check_address(url, url)
    answer = opener.open(request, timeout=seconds)
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def check_address(url: str, asked: str) -> None:
    """Raise Misled when `url`, to which a request for `asked` led, must not be requested."""
    try:
        parts, first = urlsplit(url), urlsplit(asked)
        host = parts.hostname
    except ValueError:
        raise Misled("leads to what is not an address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Misled(f"leads to {parts.scheme[:20] or 'no'} address, not http or https")
    if first.scheme == "https" and parts.scheme == "http" and not _of_this_machine(host):
        raise Misled("leads from https to http")


def _of_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Connection(http.client.HTTPConnection):
    """A connection that is held on its line as soon as it stands, before TLS."""

    line: Line

    def connect(self) -> None:
        super().connect()
        self.line.hold(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """HTTPSConnection.connect calls _Connection's, then begins TLS."""


class _Connections(urllib.request.AbstractHTTPHandler):
    """Opens http and https, each connection held on the line."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._held(_Connection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._held(_SecureConnection), req)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _held(self, kind: type[_Connection]) -> Callable[..., _Connection]:
        def connection(host: str, **settings: Any) -> _Connection:
            made = kind(host, **settings)
            made.line = self._line
            return made

        return connection


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MOST_REDIRECTS

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> object:
        """Follow it; an address of another kind is looked at before the base class does."""
        to = headers.get("Location", "")
        if ":" in to.partition("/")[0]:  # with a scheme
            check_address(to, req.full_url)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_address(newurl, req.full_url)
        fp.close()  # its body may have no end, and the base class would read it
        return super().redirect_request(req, fp, code, msg, headers, newurl)
