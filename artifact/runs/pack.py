"""A finished run in one file, to send to others, and such a file of others, unpacked and held against its hashes.

Covers what is packed (each run's journal and description, and a manifest with sizes, hashes and machines), and the
refusal of packs that are damaged, changed, or hostile: paths outside, links, other files, more bytes than they say.
Equal runs give equal packs. Hashes guard against damage, not against a forger, who can compute them (docs/threats.md).
"""

import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import msgspec

from artifact import __version__
from artifact.errors import RunError
from artifact.io import FULL, NOT_JSON, fit, open_regular, reason, replacing
from artifact.runs.journal import DATABASE, DESCRIPTION, half_written, run_folders
from artifact.runs.lock import holder
from artifact.runs.status import copy_line, run_status
from artifact.runs.store import Store, reading
from artifact.sources.kinds import DAMAGED_ARCHIVE, too_large_inside
from artifact.sources.unpack import Unusable, files_of

MANIFEST = "manifest.json"
_FORMAT = 1
_MOST_MANIFEST = 10_000_000
_CHUNK = 1 << 20
_PLACE = re.compile(rf"(?:[^/\\\x00]+/)?(?:{re.escape(DATABASE)}|{re.escape(DESCRIPTION)})")
"""Where a file of a pack may lie: a run's own two files, or those of a run in a folder of runs."""
_AGAIN = "ask its sender for the pack again"


class PackedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a pack: its bytes and their sha256."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pack says of itself: who packed it, its files by path, and the machines that computed each run."""

    format: int
    package: str
    files: dict[str, PackedFile]
    machines: dict[str, list[dict[str, Any]]]


def pack(folder: Path, out: Path, partial: bool = False) -> Manifest:
    """Write the finished run in `folder`, or all finished runs in a folder of runs, to the file `out`.

    Raises RunError for a run that is unfinished (unless `partial`: some cases do not fit every device), damaged or in
    use, and OSError where `out` cannot be written.
    """
    files: dict[str, PackedFile] = {}
    machines: dict[str, list[dict[str, Any]]] = {}
    runs = run_folders(folder)
    with replacing(out) as part, ZipFile(part, "w", ZIP_DEFLATED, compresslevel=6) as archive:
        for run in runs:
            place = "" if run == folder else f"{run.name}/"
            with reading(run) as store:
                _refuse_unfinished(store, partial)
                machines[place] = store.environments()
                files[place + DESCRIPTION] = _add(archive, place + DESCRIPTION, [store.description()])
            with open_regular(run / DATABASE) as journal:
                files[place + DATABASE] = _add(archive, place + DATABASE, _pieces(journal))
        manifest = Manifest(_FORMAT, __version__, files, machines)
        content = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"
        _add(archive, MANIFEST, [content])
    return manifest


def _refuse_unfinished(store: Store, partial: bool) -> None:
    store.refuse_damage()
    if (who := holder(store.folder)) is not None:
        raise RunError(f"{store.folder}: is in use by {who}; wait for it")
    if half_written(store.folder / DATABASE):
        raise RunError(f"{store.folder}: its process was killed while it wrote; run its command again")
    left = sum(unit.left for unit in run_status(store).units)
    if left and not partial:
        raise RunError(
            f"{store.folder}: {left} cases are left, and a finished run is expected; run its command again, or, where "
            "they do not fit the device, give --partial"
        )


def _add(archive: ZipFile, name: str, pieces: Iterator[bytes] | Sequence[bytes]) -> PackedFile:
    entry = ZipInfo(name)  # of no time and no owner
    entry.compress_type, entry.external_attr = ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    digest, size = sha256(), 0
    with archive.open(entry, "w", force_zip64=True) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return PackedFile(size, digest.hexdigest())


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_CHUNK):
        yield piece


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, Manifest]]:
    """The folder that a pack was made of, until the block ends, and its manifest.

    Raises RunError, naming the pack, for one that is damaged or not a pack, for any path, link or file that does not
    belong in one, for a size or hash that is another than the manifest's, and where there is no room to unpack it.
    """
    with TemporaryDirectory(prefix="kloc-pack-") as scratch:
        folder = Path(scratch)
        try:
            with open_regular(path) as file, ZipFile(file) as archive:
                manifest = _unpack(archive, path, folder)
        except Unusable as error:
            raise RunError(str(error)) from None
        except (*DAMAGED_ARCHIVE, zlib.error) as error:
            if isinstance(error, OSError) and error.errno in FULL:  # the pack is whole for all that
                raise RunError(
                    f"{path}: cannot be unpacked in {gettempdir()} ({reason(error)}); make room there, or set "
                    "TMPDIR to a folder on another disk"
                ) from None
            raise RunError(f"{path}: is not a whole pack ({reason(error)}); give a run's folder, or {_AGAIN}") from None
        _refuse_others(path, folder, manifest)
        yield folder, manifest


def _unpack(archive: ZipFile, path: Path, folder: Path) -> Manifest:
    if why := too_large_inside(archive, path.stat().st_size):
        raise RunError(f"{path}: is {why}; {_AGAIN}")
    entries = {entry.filename: entry for entry in files_of(archive, path, _AGAIN)}
    if len(entries) != len(archive.infolist()):
        raise RunError(f"{path}: holds folders, or a file twice; {_AGAIN}")
    for name, entry in entries.items():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise RunError(f"{path}: holds a link ({fit(name, 80)!r}), which a pack never does; {_AGAIN}")
    manifest = _manifest(archive, entries, path)
    if manifest.files.keys() != entries.keys() - {MANIFEST}:
        odd = min(manifest.files.keys() ^ (entries.keys() - {MANIFEST}))
        raise RunError(f"{path}: manifest and content differ ({fit(odd, 80)!r}); {_AGAIN}")
    for name, told in manifest.files.items():
        if not _PLACE.fullmatch(name):
            raise RunError(f"{path}: holds {fit(name, 80)!r}, which is no file of a run; {_AGAIN}")
        _write(archive, entries[name], told, folder / name, path)
    return manifest


def _manifest(archive: ZipFile, entries: dict[str, ZipInfo], path: Path) -> Manifest:
    entry = entries.get(MANIFEST)
    if entry is None or entry.file_size > _MOST_MANIFEST:
        raise RunError(f"{path}: holds no {MANIFEST} of a pack; give a file that kloc contribute wrote")
    with archive.open(entry) as file:
        content = file.read(_MOST_MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except NOT_JSON as error:
        raise RunError(f"{path}: its {MANIFEST} cannot be read ({reason(error)}); {_AGAIN}") from None
    if manifest.format != _FORMAT:
        raise RunError(f"{path}: has format {manifest.format}, expected {_FORMAT}; install a newer kloc-artifact")
    return manifest


def _write(archive: ZipFile, entry: ZipInfo, told: PackedFile, out: Path, path: Path) -> None:
    """Write one file; what it says of its size bounds what is written."""
    if entry.file_size != told.size:
        raise RunError(
            f"{path}: {fit(entry.filename, 80)!r} has {entry.file_size} bytes, expected {told.size}; {_AGAIN}"
        )
    out.parent.mkdir(exist_ok=True)
    digest = sha256()
    with archive.open(entry) as file, out.open("xb") as written:
        for piece in _pieces(file):
            digest.update(piece)
            written.write(piece)
    if digest.hexdigest() != told.sha256:
        raise RunError(
            f"{path}: {fit(entry.filename, 80)!r} has sha256 {digest.hexdigest()}, expected {told.sha256}; {_AGAIN}"
        )


def _refuse_others(path: Path, folder: Path, manifest: Manifest) -> None:
    """Raise RunError where the journals are not those of the descriptions and machines beside them."""
    places = {name.removesuffix(DATABASE) for name in manifest.files if name.endswith(DATABASE)}
    told = {name.removesuffix(DESCRIPTION) for name in manifest.files if name.endswith(DESCRIPTION)}
    if not places or places != told or places != manifest.machines.keys() or ("" in places and len(places) > 1):
        raise RunError(f"{path}: holds no run, or parts of one; {_AGAIN}")
    for place in places:
        with reading(folder / place) as store:
            if copy_line(store):
                raise RunError(f"{path}: {place}{DESCRIPTION} is not what the journal says; {_AGAIN}")
            if store.environments() != manifest.machines[place]:
                raise RunError(f"{path}: {MANIFEST} names other machines than the journal; {_AGAIN}")
