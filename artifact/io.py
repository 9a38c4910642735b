"""Files written whole, locks, file hashes, and an exception in one line: the one way to do each.

No path that comes from outside is followed through a link: what is written replaces a link, and a lock refuses one.
"""

import errno
import glob
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import msgspec
from filelock import FileLock, Timeout

NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises of bytes that are not JSON of the expected form, not text, or nested too deeply."""
UNFINISHED = ".part"
"""Ending of a file that is being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room for a file."""
_STALE_SECONDS = 600.0
"""Age from which an unfinished file counts as one that a killed process left."""


def sha256_of(*paths: Path) -> str:
    """sha256 of a file's bytes, or of several files' one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def reason(error: BaseException, most: int = 160) -> str:
    """What an exception says, in one line of at most `most` characters; its name when it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        words = error.strerror
    else:
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return fit(words, most) or type(error).__name__


def fit(text: str, most: int = 160) -> str:
    """Text from outside, fit for the middle of a message: at most `most` characters, "?" for each unprintable one."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= most else printable[: most - 3] + "..."


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write, in the folder of `path` (made if need be), that takes its place when the block ends well.

    A reader, a killed process or a full disk leaves the old content or the new, never a part. The file gets the mode
    that the umask allows (0644 as a rule); a link at `path` is replaced, not followed. A device such as /dev/null, and
    /dev/stdout, gets the content when the block ends. Raises OSError; IsADirectoryError and FileExistsError for what is
    not a file.
    """
    path = Path(path)
    if is_device(path):
        with TemporaryDirectory() as folder:  # a library may put a file of its own in the place of what it writes to
            part = Path(folder) / "content"
            part.touch()
            yield part
            _send(part, path)
        return
    _refuse_others(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    _clear(path, part)
    mode = _create(part)
    try:
        yield part
        part.chmod(mode)  # a library may have written the file anew with a mode of its own
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file with `replacing`."""
    with replacing(path) as part, part.open("wb") as stream:
        stream.write(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write into, that gets its name when the block ends well.

    A killed process leaves nothing under `path`; what it left beside it is removed later. Where another process made
    `path` meanwhile, that one stays. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name[:200])}.*{UNFINISHED}"):
        with suppress(OSError):
            if time.time() - max(file.lstat().st_mtime for file in (left, *left.iterdir())) > _STALE_SECONDS:
                shutil.rmtree(left)
    part = Path(tempfile.mkdtemp(prefix=f"{path.name[:200]}.", suffix=UNFINISHED, dir=path.parent))
    part.chmod(path.parent.stat().st_mode & 0o777)
    try:
        yield part
        try:
            os.replace(part, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def open_regular(path: Path | str) -> BinaryIO:
    """A file opened to be read, which never waits; OSError for what is not a regular file.

    Standard input and a shell's <(...), which the user connects himself, are taken as they are.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(opened).st_mode
    named = descriptor_of(Path(path)) is not None
    if not stat.S_ISREG(mode) and not (named and not stat.S_ISDIR(mode)):
        os.close(opened)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        raise FileExistsError(17, "Is not a regular file", str(path))
    os.set_blocking(opened, True)
    return open(opened, "rb")


@contextmanager
def locked(path: Path, seconds: float = -1, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file at `path`, made if need be, until the block ends or the process does.

    Where another process holds it, `waiting` is called once, then it is tried for `seconds` more (without end when
    negative). Raises TimeoutError when it is still held, OSError when the file cannot be opened: a link, a pipe and a
    device are refused.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileExistsError(17, "Is not a regular file", str(path))
    lock = FileLock(path, mode=0o644)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            raise TimeoutError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Raise now the OSError that `replacing` would raise later, after the work; leaves nothing."""
    if is_device(path):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        return
    _refuse_others(path)
    missing = [folder for folder in path.absolute().parents if not os.path.lexists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_others(path)  # a name that is too long is known in a folder that is there
        part = _part_of(path)
        _clear(path, part)
        _create(part)
        part.unlink()
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def place_of(path: Path) -> Path:
    """Where a file that is written to `path` will stand: links among its folders are followed, one at its name not."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name


def _refuse_others(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise FileExistsError(17, "Is not a regular file", str(path))


def _create(part: Path) -> int:
    """An empty new file; returns the mode that the umask gave it."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _part_of(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}.{os.getpid()}{UNFINISHED}")


def _stem(path: Path) -> str:
    """What an unfinished file's name opens with: a name may have 255 bytes, not letters."""
    return os.fsdecode(os.fsencode(path.name)[:200])


def _clear(path: Path, own: Path) -> None:
    own.unlink(missing_ok=True)  # of an earlier process with our number
    clear_unfinished(path)


def clear_unfinished(path: Path, age: float = _STALE_SECONDS) -> None:
    """Remove what a killed process left of `path`: its unfinished files that nobody has touched for `age` seconds."""
    named = re.compile(rf"{re.escape(_stem(path))}\.\d+{re.escape(UNFINISHED)}")
    for left in path.parent.glob(f"{glob.escape(_stem(path))}.*{UNFINISHED}"):
        with suppress(OSError):
            if named.fullmatch(left.name) and time.time() - left.lstat().st_mtime > age:
                left.unlink()


_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def descriptor_of(path: Path) -> int | None:
    """The number of the open file that `path` names: /dev/stdout, /dev/fd/3 (as a shell's <(...) gives), or None."""
    found = re.fullmatch(r"/(?:dev/fd|proc/self/fd)/(\d{1,6})", str(path))
    return int(found[1]) if found else _STREAMS.get(str(path))


def is_device(path: Path) -> bool:
    """Whether `path` names an open file or a device, which is written to and never replaced."""
    if descriptor_of(path) is not None:  # whatever stands there: the name is the system's, and is never replaced
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return place_of(path).is_relative_to("/dev") and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _send(part: Path, path: Path) -> None:
    """Write a file's content to a device, or to an open file where it stands."""
    number = descriptor_of(path)
    if number == 1 and sys.stdout is not None:
        sys.stdout.flush()  # what was said before stands before it
    opened = os.open(path, os.O_WRONLY | os.O_NOCTTY) if number is None else os.dup(number)
    with part.open("rb") as content, open(opened, "wb", buffering=0) as device:
        shutil.copyfileobj(content, device)
