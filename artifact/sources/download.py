"""One file over HTTP: resumed, retried, verified, and only then given its name.

Covers ranges, validators, time-outs, back-off, mirrors and full disks. What is fetched is catalogue.py's, where it is
kept and which hash it must have are fetch.py's; files of the model hub are huggingface_hub's.

The standard library's client does it, since pooch, which would, begins every file anew after a cut, and the largest
here is 3.8 GB. It follows redirects and takes proxies from the environment (http_proxy, https_proxy, no_proxy).
"""

import errno
import http.client
import lzma
import os
import shutil
import ssl
import struct
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit
from zipfile import BadZipFile, ZipFile

import msgspec

from artifact import __version__
from artifact.errors import FactError
from artifact.io import UNFINISHED, sha256_of
from artifact.sources.lock import Expected

_BLOCK = 1 << 20
_TRY_LATER = {408, 425, 429}
Say = Callable[[str], None]
Tell = Callable[[int, int | None], None]
"""Called with the bytes there, and the bytes in all where they are known."""


@dataclass(frozen=True)
class Patience:
    """How long a host is waited for: seconds without a byte, tries without progress, seconds between tries."""

    stall_seconds: float = 30.0
    tries: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0


PATIENCE = Patience()
DAMAGED_ARCHIVE = (
    BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError, struct.error
)  # fmt: skip
"""What zipfile raises for an archive that is damaged, encrypted, or compressed in a way it does not know."""


@dataclass(frozen=True)
class Wanted:
    """A file to download to `path`: `size` in bytes, about that many unless `exact`; `name` is for messages."""

    name: str
    path: Path
    urls: Sequence[str]
    size: int
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


class _Refused(Exception):
    """This URL will not give the file; the next one may."""


class _Again(Exception):
    """It may work in a moment, after `wait` seconds if the host said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download(wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> str:
    """Download to `wanted.path`, from the first URL that gives the expected bytes; which one it was.

    An interrupted download goes on where it was cut. Without a known hash the file is checked to be no web page, and an
    archive to be whole. Raises FactError when no URL gives it, naming each with its reason, and when the disk is full.
    """
    reasons = []
    for url in wanted.urls:
        try:
            _from(url, wanted, say, tell, patience)
        except _Refused as refused:
            reasons.append(f"{urlsplit(url).netloc}: {refused}")
            continue
        os.replace(wanted.part, wanted.path)
        wanted.note.unlink(missing_ok=True)
        return url
    told = ", ".join(dict.fromkeys(reasons))
    raise FactError(
        f"{wanted.name}: cannot be fetched ({told}); run the same command again later, set KLOC_MIRROR to a mirror, or "
        f"put the file at {wanted.path}"
    )


def _from(url: str, wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> None:
    """Make the unfinished file whole and right from `url`; one that was resumed and is wrong is begun anew once."""
    begun_anew = False
    while True:
        resumed = _patiently(url, wanted, say, tell, patience) and not begun_anew
        if wanted.expected is None:
            if problem := _not_whole(wanted.part, wanted.path.suffix):
                _discard(wanted)
                raise _Refused(problem)
            return
        digest = sha256_of(wanted.part)
        if digest == wanted.expected.sha256:
            return
        _discard(wanted)
        words = f"expected sha256 {wanted.expected.sha256} ({wanted.expected.by}), got {digest}, nothing was kept"
        if not resumed:
            raise _Refused(words)
        say(f"{wanted.name}: {words}; beginning anew")
        begun_anew = True


def _patiently(url: str, wanted: Wanted, say: Say, tell: Tell, patience: Patience) -> bool:
    """One request after another until the file is complete. True when the last one went on with bytes of another."""
    failures, longest = 0, _length(wanted.part)
    while True:
        try:
            return _attempt(url, wanted, tell, patience)
        except _Again as again:
            length = _length(wanted.part)
            if length > longest:  # what makes progress is not given up
                failures, longest = 0, length
            failures += 1
            if failures >= patience.tries:
                raise _Refused(f"{again}, {patience.tries} times") from None
            wait = min(patience.first_wait * 2 ** (failures - 1), patience.longest_wait)
            if again.wait is not None:
                wait = again.wait
            if wait > patience.longest_wait:
                raise _Refused(f"{again}, and asks to wait {wait:.0f} s") from None
            say(f"{wanted.name}: {urlsplit(url).netloc}: {again}; again in {wait:g} s")
            time.sleep(wait)


def _attempt(url: str, wanted: Wanted, tell: Tell, patience: Patience) -> bool:
    """One request. True when it went on with bytes that were there. Raises _Again, _Refused, and FactError."""
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
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener().open(request, timeout=patience.stall_seconds)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            _discard(wanted)
        _failed(error, patience)
    with response:
        start, total = _extent(response, there)
        found = _validator(response)
        if start and begun and (total != begun.total or (validator and found and found != validator)):
            _discard(wanted)
            raise _Again("the file has changed since its first part")
        _refuse_other(response, total, wanted)
        _check_room(wanted, start, total)
        try:
            if not start:
                _discard(wanted)  # first, so that a note never stands beside the bytes of another file
                wanted.note.write_bytes(msgspec.json.encode(_Begun(url, found, total)))
            with wanted.part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                done = start
                tell(done, total)
                while block := _block(response, patience):
                    stream.write(block)
                    done += len(block)
                    tell(done, total)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            _not_written(wanted, error)
    if total is not None and done != total:
        raise _Again(f"cut after {done} of {total} bytes")
    return start > 0


def _block(response: http.client.HTTPResponse, patience: Patience) -> bytes:
    try:
        return response.read1(_BLOCK)  # what has come, without waiting for more
    except (OSError, http.client.HTTPException) as error:
        _failed(error, patience)


def _failed(error: Exception, patience: Patience) -> NoReturn:
    """Whether an answer or its absence is worth another try."""
    if isinstance(error, urllib.error.HTTPError):
        with error:
            if error.code == 416:
                raise _Again("has no such part") from None
            if error.code in _TRY_LATER or error.code >= 500:
                raise _Again(f"answers {error.code}", _retry_after(error.headers.get("Retry-After"))) from None
            raise _Refused(f"answers {error.code}") from None
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise _Refused(f"its certificate cannot be verified ({reason.verify_message})") from None
    if isinstance(reason, TimeoutError):
        raise _Again(f"silent for {patience.stall_seconds:g} s") from None
    words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    raise _Again(words) from None


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _extent(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where the body begins and how long the whole file is. A host without ranges answers with the whole."""
    if response.status == 206:
        words = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = words[0].partition("-")[0]
        if start != str(asked):
            raise _Refused(f"answers with another range ({response.headers.get('Content-Range')}) than was asked for")
        return asked, int(words[2]) if words[2].isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What tells this version of the file from another: a strong ETag, else the date of its last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _refuse_other(response: http.client.HTTPResponse, total: int | None, wanted: Wanted) -> None:
    """Refuse before the first byte what cannot be the file."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Refused(f"sends it encoded ({response.headers['Content-Encoding']})")
    if response.headers.get_content_type() == "text/html":
        raise _Refused("answers with a web page")
    if wanted.exact and total is not None and total != wanted.size:
        raise _Refused(f"expected {wanted.size} bytes, got {total}")


def _check_room(wanted: Wanted, start: int, total: int | None) -> None:
    needed, free = (total or wanted.size) - start, shutil.disk_usage(wanted.path.parent).free
    if needed > free:
        raise no_room(wanted.name, wanted.path.parent, needed, free)


def no_room(name: str, folder: Path, needed: int, free: int) -> FactError:
    """The error for a disk that cannot take `needed` bytes."""
    return FactError(
        f"{name}: {folder} needs {needed / 1e9:.2f} GB and has {free / 1e9:.2f} GB free; make room, or set KLOC_CACHE "
        "(HF_HOME for models) to a larger disk"
    )


def _not_written(wanted: Wanted, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise FactError(
            f"{wanted.name}: the disk of {wanted.path.parent} is full; make room and run the same command again: what "
            "was fetched is kept"
        ) from None
    raise FactError(
        f"{wanted.path}: cannot be written ({error.strerror}); set KLOC_CACHE to a folder you own, or change its owner"
    ) from None


def _not_whole(path: Path, suffix: str) -> str | None:
    """Why a file of unknown hash is not what its name says; None when nothing speaks against it."""
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    if not head:
        return "sent an empty file"
    if head.startswith((b"<!doctype", b"<html")):
        return "sent a web page"
    if suffix in (".zip", ".npz"):
        try:
            with ZipFile(path) as archive:
                if damaged := archive.testzip():
                    return f"sent an archive whose {damaged} is damaged"
        except (*DAMAGED_ARCHIVE, OSError) as error:
            return f"sent no whole archive ({error})"
    return None


def _read_begun(wanted: Wanted) -> _Begun | None:
    try:
        return msgspec.json.decode(wanted.note.read_bytes(), type=_Begun)
    except (OSError, msgspec.DecodeError):
        return None


def _discard(wanted: Wanted) -> None:
    with suppress(FileNotFoundError):
        wanted.part.unlink()
    with suppress(FileNotFoundError):
        wanted.note.unlink()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
