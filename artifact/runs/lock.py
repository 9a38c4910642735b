"""The lock of a run folder: one process writes there at a time, and says who it is.

Covers taking the lock and asking who holds it. The system gives it up when its process ends, however that ends; what
the file says then is out of date, and a copied folder is nobody's.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from artifact.errors import RunError

LOCK = "run.lock"
_PATIENCE = 0.5
"""Seconds to try: a look at the lock (holder) holds it for an instant."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, created if need be, until the block ends; RunError when it cannot be written or is held."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+b", buffering=0)
    except OSError as error:
        raise unwritable(folder, error) from None
    with lock:
        if not _taken(lock, fcntl.LOCK_EX, _PATIENCE):
            raise RunError(
                f"{folder}: is in use by {_said(lock)}; wait for it, or name another folder with --out"
            ) from None
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise unwritable(folder, error) from None
        yield


def holder(folder: Path) -> str | None:
    """Who works on a run, such as `process 12 on host`; None when nobody does."""
    try:
        lock = (folder / LOCK).open("rb", buffering=0)
    except OSError:
        return None
    with lock:
        return None if _taken(lock, fcntl.LOCK_SH) else _said(lock)


def unwritable(folder: Path, error: OSError) -> RunError:
    """What is said of a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free disk space and run the same command again: what was stored is kept"
    else:
        remedy = "name a folder you own with --out, or change its owner"
    return RunError(f"{folder}: cannot be written ({error.strerror}); {remedy}")


def _taken(lock: IO[bytes], kind: int, patience: float = 0.0) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        else:
            return True


def _said(lock: IO[bytes]) -> str:
    lock.seek(0)
    return lock.read(200).decode(errors="replace").strip() or "another process"
