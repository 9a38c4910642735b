"""One file over HTTP: resumed, retried, bounded, verified, and only then given its name.

Covers ranges, validators, time-outs, rates, sizes, back-off, mirrors and full disks. What is fetched is catalogue.py's,
where it is kept and which hash it must have are fetch.py's; files of the model hub are huggingface_hub's.

It uses the standard library's client: pooch restarts a file from its beginning after a cut, and the largest here is 3.8
GB. Nothing that a host names becomes a path.
"""

import http.client
import os
import shutil
import stat
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import msgspec

from artifact import __version__
from artifact.errors import FactError
from artifact.io import FULL, NOT_JSON, UNFINISHED, fit, open_regular, reason, sha256_of, write_atomically
from artifact.sizes import size_words
from artifact.sources.answer import Again, Refused, can_be_sent, extent, failed, validator_of
from artifact.sources.connection import Line, Misled, Watch, open_address
from artifact.sources.kinds import not_such
from artifact.sources.lock import Entry, Expected

_BLOCK = 1 << 20
Say = Callable[[str], None]
Tell = Callable[[int, int | None], None]
"""Called with the bytes there, and the bytes in all where they are known."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a host: seconds without a byte, tries without progress, seconds between tries.

    Progress is `rate` bytes a second: over every `window` seconds of an answer, its headers and redirects included, and
    over the tries, of which there are at most `most_tries`.
    """

    stall_seconds: float = 30.0
    tries: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0
    rate: float = 10_000.0
    window: float = 60.0
    most_tries: int = 100


PATIENCE = Patience()


@dataclass(frozen=True)
class Wanted:
    """A file to download to `path`: `size` in bytes, about that many and `most` at most unless `exact`; `name` is for
    messages.
    """

    name: str
    path: Path
    urls: Sequence[str]
    size: int
    most: int
    exact: bool
    expected: Expected | None

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + UNFINISHED)

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}{UNFINISHED}.json")


class _Begun(msgspec.Struct, frozen=True):
    """What the unfinished file is the beginning of."""

    url: str
    validator: str | None
    total: int | None


def download(wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> Entry:
    """Download to `wanted.path`, from the first URL that gives the expected bytes; what came, with that URL.

    An interrupted download continues where it stopped. Without a known hash the file must be of its kind, and an
    archive whole. Raises FactError when no URL gives the file, naming each with its reason, when the disk is full,
    and when something other than a file is in its place.
    """
    _clear_the_way(wanted)
    reasons = []
    for url in wanted.urls:
        try:
            digest = _from(url, wanted, say, tell, patience)
        except Refused as refused:
            reasons.append(f"{_host(url)}: {refused}")
            continue
        with _writing(wanted):
            os.replace(wanted.part, wanted.path)
            wanted.note.unlink(missing_ok=True)
        return Entry(digest, wanted.path.stat().st_size, url)
    told = ", ".join(dict.fromkeys(reasons))
    raise FactError(
        f"{wanted.name}: cannot be fetched ({told}); run the same command again later, set KLOC_MIRROR to a mirror, or "
        f"put the file at {wanted.path}"
    )


def _from(url: str, wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> str:
    """Complete and verify the unfinished file from `url`; its sha256. If a resumed one fails its hash, restart once."""
    begun_anew = False
    while True:
        resumed = _patiently(url, wanted, say, tell, patience) and not begun_anew
        if wanted.expected is None and (problem := not_such(wanted.part, wanted.path.name)):
            _discard(wanted)
            raise Refused(f"what it sent is {problem}")
        digest = sha256_of(wanted.part)
        if wanted.expected is None or digest == wanted.expected.sha256:
            return digest
        _discard(wanted)
        words = f"expected sha256 {wanted.expected.sha256} ({wanted.expected.by}), got {digest}, nothing was kept"
        if not resumed:
            raise Refused(words)
        say(f"{wanted.name}: {words}; starting again")
        begun_anew = True


def _patiently(url: str, wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> bool:
    """One request after another until the file is complete. True when the last one went on with bytes of another."""
    failures, tries, longest, since = 0, 0, _length(wanted.part), time.monotonic()
    while True:
        try:
            return _attempt(url, wanted, tell, patience)
        except Again as again:
            tries += 1
            gained, now = _length(wanted.part) - longest, time.monotonic()
            if gained > 0 and gained >= patience.rate * (now - since):  # what makes progress is not given up
                failures, longest, since = 0, longest + gained, now
            failures += 1
            if failures >= patience.tries or tries >= patience.most_tries:
                raise Refused(f"{again}, {patience.tries if tries < patience.most_tries else tries} times") from None
            wait = min(patience.first_wait * 2 ** (failures - 1), patience.longest_wait)
            if again.wait is not None:
                wait = again.wait
            if wait > patience.longest_wait:
                raise Refused(f"{again}, and asks to wait {wait:.0f} s") from None
            say(f"{wanted.name}: {_host(url)}: {again}; again in {wait:g} s")
            time.sleep(wait)


def _attempt(url: str, wanted: Wanted, tell: Tell, patience: Patience) -> bool:
    """One request. True when it went on with bytes that were there. Raises Again, Refused, and FactError."""
    begun = _read_begun(wanted)
    there = _length(wanted.part) if begun else 0
    validator = begun.validator if begun and begun.url == url else None
    if wanted.expected is None and validator is None:
        there = 0  # nothing could tell a mixture of two files
    if begun and begun.total is not None and there == begun.total > 0:
        return True  # stopped between the last byte and the verification
    headers = {"User-Agent": f"kloc-artifact/{__version__}", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if validator:
            headers["If-Range"] = validator
    arrived, before = 0, None

    def took(done: int, total: int | None) -> None:
        nonlocal arrived, before
        before = done if before is None else before
        arrived = done - before
        tell(done, total)

    with closing(Line()) as line, Watch(patience.rate, patience.window, lambda: arrived, line.cut) as watch:
        try:
            answer = _opened(url, headers, wanted, patience, line)
            with answer:
                return _take(answer, url, wanted, begun, there, took, watch, patience)
        except (Again, Refused):
            if watch.slow:  # what was cut for it looks like another failure
                raise Again(
                    f"gives less than {patience.rate / 1000:g} kB a second over {patience.window:g} s"
                ) from None
            raise


def _opened(
    url: str, headers: dict[str, str], wanted: Wanted, patience: Patience, line: Line
) -> http.client.HTTPResponse:
    try:
        return open_address(url, headers, patience.stall_seconds, line)
    except Misled as misled:
        raise Refused(str(misled)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not an address
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            _discard(wanted)
        failed(error, patience.stall_seconds)


def _take(
    response: http.client.HTTPResponse,
    url: str,
    wanted: Wanted,
    begun: _Begun | None,
    there: int,
    tell: Tell,
    watch: Watch,
    patience: Patience,
) -> bool:
    """Write an answer's body to the unfinished file, after the `there` bytes that were asked to be left out."""
    start, total = extent(response, there)
    offered = validator_of(response)
    validator = begun.validator if begun and begun.url == url else None
    if start and begun and (total != begun.total or (validator and offered and offered != validator)):
        _discard(wanted)
        raise Again("the file has changed since its first part")
    _refuse_other(response, total, wanted)
    _check_room(wanted, start, total)
    with _writing(wanted):
        if not start:
            _discard(wanted)  # first, so that a note never stands beside the bytes of another file
            write_atomically(wanted.note, msgspec.json.encode(_Begun(url, offered, total)))
        with _unfinished(wanted.part, anew=not start) as stream:
            stream.seek(start)
            done = start
            tell(done, total)
            while block := _block(response, patience):
                done += len(block)
                if done > (wanted.most if total is None else total):
                    _discard(wanted)
                    raise Refused(f"sends more than {wanted.most if total is None else total} bytes")
                stream.write(block)
                tell(done, total)
            if watch.slow:
                raise Again("was cut")  # what looks like the end of a body of unknown length
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done != total:
        raise Again(f"cut after {done} of {total} bytes")
    if wanted.exact and done != wanted.size:
        _discard(wanted)
        raise Refused(f"expected {wanted.size} bytes, got {done}")
    return start > 0


def _block(response: http.client.HTTPResponse, patience: Patience) -> bytes:
    try:
        return response.read1(_BLOCK)  # what has come, without waiting for more
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk of no length
        failed(error, patience.stall_seconds)


def _refuse_other(response: http.client.HTTPResponse, total: int | None, wanted: Wanted) -> None:
    """Refuse before the first byte what cannot be the file."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(f"sends it encoded ({fit(response.headers['Content-Encoding'], 60)})")
    if response.headers.get_content_type() == "text/html":
        raise Refused("answers with a web page")
    if wanted.exact and total is not None and total != wanted.size:
        raise Refused(f"expected {wanted.size} bytes, got {total}")
    if total is not None and total > wanted.most:
        raise Refused(f"expected about {wanted.size} bytes, {wanted.most} at most, got {total}")


def _check_room(wanted: Wanted, start: int, total: int | None) -> None:
    needed, free = (total or wanted.size) - start, shutil.disk_usage(wanted.path.parent).free
    if needed > free:
        raise no_room(wanted.name, wanted.path.parent, needed, free)


def no_room(name: str, folder: Path, needed: int, free: int) -> FactError:
    """The error for a disk that cannot take `needed` bytes."""
    return FactError(
        f"{name}: {folder} needs {size_words(needed)} and has {size_words(free)} free; make room, or set KLOC_CACHE "
        "(HF_HOME for models) to a larger disk"
    )


@contextmanager
def _writing(wanted: Wanted) -> Iterator[None]:
    """Turn an error of the disk into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise FactError(
                f"{wanted.name}: the disk of {wanted.path.parent} is full; make room and run the same command again: "
                "what was fetched is kept"
            ) from None
        raise FactError(
            f"{wanted.path}: cannot be written ({reason(error)}); set KLOC_CACHE to a folder you own, or change its "
            "owner"
        ) from None


def _clear_the_way(wanted: Wanted) -> None:
    """Remove a link where the unfinished file or its note goes; refuse a folder, a pipe or a device there."""
    for path in (wanted.part, wanted.note, wanted.path):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                if path != wanted.path:  # that one is replaced, not followed
                    path.unlink()
            elif not stat.S_ISREG(mode):
                raise FactError(f"{path}: is not a regular file, and {wanted.name} goes there; remove it")


def _unfinished(path: Path, anew: bool) -> BinaryIO:
    """The unfinished file, never through a link: a new one, or the one that is there."""
    how = os.O_CREAT | os.O_EXCL if anew else 0
    return os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | how, 0o666), "r+b")


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _read_begun(wanted: Wanted) -> _Begun | None:
    try:
        with open_regular(wanted.note) as file:
            begun = msgspec.json.decode(file.read(), type=_Begun)
    except (OSError, *NOT_JSON):
        return None
    if begun.validator is not None and not can_be_sent(begun.validator):
        return None
    return begun


def _discard(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)
    wanted.note.unlink(missing_ok=True)


def _length(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
