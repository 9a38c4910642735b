"""The lock of a run folder: one process writes there at a time, and says who it is.

Covers taking the lock (io.py's) and asking who holds it. The operating system releases the lock when the process ends,
even by a crash; what the file says is out of date then. A copied folder is unlocked.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from artifact import io
from artifact.errors import RunError
from artifact.terminal import shown

LOCK, REPORT_LOCK = "run.lock", ".lock"
_PATIENCE = 0.5
"""Seconds to try: a look at the lock (holder) holds it for an instant."""
_TURN = 900.0
"""Seconds that one report waits for another: a first one of a large run is drawn for minutes."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What a file system without locks answers."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, created if need be, until the block ends; RunError when it cannot be written or is held."""
    path = folder / LOCK
    check_path(folder)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _try_locks(path)
            stack.enter_context(io.locked(path, _PATIENCE))
            path.write_bytes(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except TimeoutError:
            raise RunError(
                f"{folder}: is in use by {_said(path)}; wait for it, or name another folder with --out"
            ) from None
        except FileExistsError as error:
            if error.filename != str(path):
                raise unwritable_folder(folder, error) from None
            raise RunError(f"{path}: is not a regular file and cannot be a lock; remove it") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise RunError(
                    f"{folder}: its file system has no locks ({error.strerror}), so two processes could write there "
                    "at once; name a folder on another disk with --out and copy it here afterwards"
                ) from None
            raise unwritable_folder(folder, error) from None
        yield


@contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Wait until no other process writes a report into a folder that is there, and keep others waiting.

    Yields False at once where the file system has no locks. Raises OSError when the folder cannot be written, RunError
    when another process writes there for too long.
    """
    path, alone = folder / REPORT_LOCK, True
    with ExitStack() as stack:
        try:
            _try_locks(path)
            stack.enter_context(io.locked(path, _TURN))
        except TimeoutError:
            raise RunError(
                f"{folder}: another process has been writing a report there for {_TURN / 60:.0f} minutes; stop it, or "
                "name another folder with --out"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            alone = False
        yield alone


def holder(folder: Path) -> str | None:
    """Who works on a run, such as `process 12 on host`; None when nobody does, or when locks do not work there."""
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    try:
        if stat.S_ISREG(os.fstat(lock).st_mode):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _said(path)
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def refuse_existing(out: Path) -> None:
    """Raise RunError when something is at `out`, which must be a new folder or an empty one, or it cannot be a path."""
    check_path(out)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise is_there(out)
    except OSError as error:
        raise unwritable_folder(out, error) from None


def is_there(folder: Path) -> RunError:
    """What is said of a folder that is not new."""
    return RunError(f"{folder}: is there already and is never overwritten; name a new folder with --out")


def check_path(folder: Path) -> None:
    """Raise RunError for what cannot be a folder's path: too long, or with a NUL in it."""
    try:
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise unwritable_folder(folder, error) from None
    except ValueError as error:
        raise RunError(f"{str(folder)!r}: is not a path ({error}); name a folder with --out") from None


def unwritable_folder(folder: Path, error: OSError) -> RunError:
    """What is said of a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free disk space and run the same command again: what was stored is kept"
    else:
        remedy = "name a folder you own with --out, or change its owner"
    return RunError(f"{folder}: cannot be written ({error.strerror}); {remedy}")


def _try_locks(path: Path) -> None:
    """Raise OSError where the file system has no locks: filelock would take the file's being there for one."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "Is not a regular file", str(path))
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(lock)


def _said(path: Path) -> str:
    try:
        with path.open("rb") as file:
            said = file.read(200).decode(errors="replace")
    except OSError:
        said = ""
    return shown(said.strip()) or "another process"
