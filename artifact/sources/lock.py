"""The hash that a fetched file must have: pinned with the source, committed, or recorded at the first fetch.

Covers sources.lock.json, which comes with the package, fetched.lock.json in the cache folder, hashing, and the lock by
which two processes take turns.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from artifact import __version__
from artifact.errors import FactError
from artifact.io import NOT_JSON, locked, open_regular, reason, sha256_of, write_atomically
from artifact.sources.cache import cache_folder

COMMITTED = Path(__file__).with_name("sources.lock.json")
"""Hashes that hold for everybody, of files for which the source publishes no hash."""
RECORDED = "fetched.lock.json"
_UNUSABLE = "unusable: "
"""Before the key of an entry that says why a file cannot be used."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file as it was first seen; `made_from` is the sha256 of the file that it was unpacked or converted from.

    `unusable` is why these bytes cannot be used (note_unusable), found by the package's version `by`.
    """

    sha256: str
    size: int
    url: str | None = None
    made_from: str | None = None
    unusable: str | None = None
    by: str | None = None


class _Lock(msgspec.Struct, forbid_unknown_fields=True):
    files: dict[str, Entry] = {}


class Expected(msgspec.Struct, frozen=True):
    """The hash a file must have, and by what."""

    sha256: str
    by: str


def expected_of(key: str, pinned: str | None = None) -> Expected | None:
    """The hash that `key` ("counterfact/counterfact.json") must have: pinned, committed, or recorded; None when new."""
    if pinned:
        return Expected(pinned, "pinned")
    if entry := _read(COMMITTED).files.get(key):
        return Expected(entry.sha256, f"committed in {COMMITTED.name}")
    if entry := recorded(key):
        return Expected(entry.sha256, f"recorded in {cache_folder() / RECORDED} when it was first fetched")
    return None


def recorded(key: str) -> Entry | None:
    """What the cache's lock file says of `key`. Raises FactError when the lock file cannot be read."""
    return _read(cache_folder() / RECORDED).files.get(key)


def recorded_keys() -> list[str]:
    """Every key of the cache's lock file."""
    return list(_read(cache_folder() / RECORDED).files)


def entry_of(path: Path, made_from: str | None = None) -> Entry:
    """The entry of a file as it stands."""
    return Entry(sha256_of(path), path.stat().st_size, made_from=made_from)


def record(key: str, entry: Entry) -> None:
    """Enter a verified file into the cache's lock file; an entry of the same hash stays as it is."""
    before = recorded(key)
    if before and before.sha256 == entry.sha256 and entry.made_from in (None, before.made_from):
        return
    _change(lambda files: files.update({key: entry}))


def forget(key: str) -> None:
    """Take a file out of the cache's lock file, with what was noted of it."""
    names = [name for name in (key, _UNUSABLE + key) if recorded(name)]
    if names:
        _change(lambda files: [files.pop(name, None) for name in names])


def note_unusable(key: str, path: Path, reason: str) -> None:
    """Keep why a fetched file cannot be used, so that the next command can say it at once.

    Its hash is forgotten: another file may take its place.
    """
    entry = Entry(sha256_of(path), path.stat().st_size, unusable=reason, by=__version__)

    def change(files: dict[str, Entry]) -> None:
        files.pop(key, None)
        files[_UNUSABLE + key] = entry

    _change(change)


def unusable(key: str, path: Path, sha256: str | None = None) -> str | None:
    """Why the file at `path` cannot be used; None when nothing was noted of these bytes.

    The file is recognised by its size, and by its `sha256` where the caller has it. A note by another version of the
    package is ignored, as this version may read the file.
    """
    entry = recorded(_UNUSABLE + key)
    if entry is None or entry.by != __version__ or not path.is_file() or path.stat().st_size != entry.size:
        return None
    return entry.unusable if sha256 in (None, entry.sha256) else None


def _change(change: Callable[[dict[str, Entry]], object]) -> None:
    with holding(cache_folder()):
        lock = _read(cache_folder() / RECORDED)
        change(lock.files)
        lock.files = dict(sorted(lock.files.items()))
        path = cache_folder() / RECORDED
        try:
            write_atomically(path, msgspec.json.format(msgspec.json.encode(lock), indent=1) + b"\n")
        except OSError as error:
            raise FactError(f"{path}: cannot be written ({reason(error)}); make room, or change its owner") from None


@contextmanager
def holding(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold `folder`, made if need be, until the block ends; another process that wants it waits, and says so.

    Raises FactError when the folder cannot be written.
    """
    waiting = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting.enter_context(
            locked(folder / ".lock", waiting=lambda: say(f"{folder.name}: another process fetches it; waiting"))
        )
    except OSError as error:
        raise FactError(
            f"{folder}: cannot be written ({reason(error)}); set KLOC_CACHE to a folder you own, or change its owner"
        ) from None
    with waiting:
        yield


def _read(path: Path) -> _Lock:
    try:
        with open_regular(path) as file:
            return msgspec.json.decode(file.read(), type=_Lock)
    except FileNotFoundError:
        return _Lock()
    except (OSError, *NOT_JSON) as error:
        raise FactError(
            f"{path}: is not a lock file ({reason(error)}); delete it, and kloc fetch records the hashes again"
        ) from None
