"""Headless Chromium, driven over its DevTools pipe with the standard library alone: no webdriver, no open port.

Covers starting the one that is installed, opening a file, window width, colour scheme, keys, JavaScript and print.
It downloads no browser, and every request that a page makes is kept for the test to see.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60
# No sandbox: it cannot be set up by root or in most containers, and the pages are our own. The rest keeps it silent.
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--disable-default-apps",
        "--disable-extensions",
    ),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe"),
)


def installed() -> str:
    """The installed Chromium's path; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)}); the page is not looked at")
    return found


def _moved_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


class Chromium:
    """A running browser. Messages are JSON up to a zero byte: ours go to its descriptor 3, its own come from 4."""

    def __init__(self, program: str, profile: Path) -> None:
        # Out of the way of 3 and 4, where the browser looks for its ends.
        theirs_in, self._out, self._in, theirs_out = (_moved_up(fd) for fd in (*os.pipe(), *os.pipe()))
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        argv = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = os.posix_spawn(program, argv, os.environ, file_actions=[*null, *pipes], setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)
        self._sent, self._unread = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its result; events that come before it are kept in `events`."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params} | ({"sessionId": session} if session else {})
        # A long script is more than a pipe takes at once; os.write tells how much it took.
        rest = memoryview(json.dumps(message).encode() + b"\0")
        while rest:
            rest = rest[os.write(self._out, rest) :]
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait(self, event: str, session: str) -> None:
        """Wait for an event of a session, which may have come already."""
        deadline = time.monotonic() + SECONDS
        while not any(e.get("method") == event and e.get("sessionId") == session for e in self.events):
            self.events.append(self._next(deadline))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {SECONDS} s"
            came = os.read(self._in, 1 << 20)
            assert came, "Chromium ended"
            self._unread += came
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """End the browser and all that it started."""
        os.close(self._out)  # it ends when its pipe does
        deadline = time.monotonic() + 5
        while (running := os.waitpid(self._process, os.WNOHANG)[0] == 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        if running:
            os.waitpid(self._process, 0)
        os.close(self._in)


class Tab:
    """One open page."""

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, path: Path) -> None:
        """Load a file, to the end."""
        self._browser.events.clear()
        self._call("Page.navigate", url=path.as_uri())
        self._browser.wait("Page.loadEventFired", self._session)

    def window(self, width: int, scheme: str = "light", media: str = "") -> None:
        """Set the window's width in CSS pixels (a phone's below 600), the preferred colours, and `media` to print."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key by its DOM name and Windows key code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened, data: addresses left out."""
        asked = [
            e["params"]["request"]["url"] for e in self._browser.events if e["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the page wrote to the console, and errors in it."""
        return [
            json.dumps(e["params"])
            for e in self._browser.events
            if e["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]

    def pdf(self) -> bytes:
        """The page printed on A4, with the margins that it asks for."""
        printed = self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    def picture(self) -> bytes:
        """The whole page as PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """A tab of a fresh browser, which ends with the block."""
    browser = Chromium(installed(), profile)
    try:
        yield Tab(browser)
    finally:
        browser.close()
