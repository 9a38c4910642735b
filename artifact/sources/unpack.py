"""One file out of a fetched zip archive, safely: no path out of the folder, no more bytes than the limit.

A member is known by what its records hold, whatever it is called: a JSON list, records by id, or JSON lines, with a
byte-order mark or without.
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile, ZipInfo

import msgspec

from artifact.errors import FactError
from artifact.io import NOT_JSON, fit, reason, write_atomically
from artifact.sizes import size_words
from artifact.sources.catalogue import ArchiveMember
from artifact.sources.kinds import DAMAGED_ARCHIVE, too_large_inside

LEAST_SHARE = 0.95
"""Share of a member's records that must hold the fields for it to be taken."""
TOTAL = 4
"""Bytes of all members that are looked into, as a multiple of one member's limit."""
_SHOWN, _FIELDS = 8, 10


class Unusable(FactError):
    """The archive itself is damaged, or not the one that was expected."""


def unpack(
    archive: Path, member: ArchiveMember, out: Path, say: Callable[[str], None] = lambda line: None
) -> str | None:
    """Write one member of the archive to `out`, in one step; returns its path in the archive.

    It is the one whose records hold `member.needs`, whatever it is called; of several the one with most records, then
    the first by name. It is written as a JSON list. None when an optional member is not there. Raises Unusable for an
    archive that is damaged as a whole or names a path outside itself; FactError, with the archive's content, when no
    member's records hold the fields, and when `out` cannot be written. Where a member cannot be read and the others do
    not hold the fields, the archive is Unusable, too. Members of more than `member.limit` bytes, or
    beyond TOTAL times that in all, are not looked into. Nothing is left of what is refused.
    """
    try:
        with ZipFile(archive) as opened:
            if why := too_large_inside(opened, archive.stat().st_size):
                raise Unusable(f"{archive}: is {why}; run kloc fetch {archive.parent.name} again")
            entries = files_of(opened, archive, f"run kloc fetch {archive.parent.name} again")
            taken = _by_content(opened, entries, archive, member, say)
    except DAMAGED_ARCHIVE as error:
        raise Unusable(
            f"{archive}: is not a whole zip archive ({reason(error)}); run kloc fetch {archive.parent.name} again"
        ) from None
    if taken is None:
        return None
    try:
        write_atomically(out, taken[1])
    except OSError as error:
        raise FactError(f"{out}: cannot be written ({reason(error)}); make room, or set KLOC_CACHE") from None
    return taken[0]


def records_of(content: bytes) -> list[Any] | None:
    """The records of a JSON list, of an object of records by id or under one name, or of JSON lines, or None."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        decoded = msgspec.json.decode(content)
    except NOT_JSON:
        try:
            return [msgspec.json.decode(line) for line in content.splitlines() if line.strip()] or None
        except NOT_JSON:
            return None
    if isinstance(decoded, dict):
        if {"requested_rewrite", "subject"} & decoded.keys():
            return [decoded]
        values = list(decoded.values())
        if all(isinstance(value, dict) for value in values):
            return values
        lists = [value for value in values if isinstance(value, list)]
        return lists[0] if len(lists) == 1 else None
    return decoded if isinstance(decoded, list) else None


def files_of(opened: ZipFile, archive: Path, remedy: str) -> list[ZipInfo]:
    """The archive's files; Unusable, with the remedy, when any path leads out of it."""
    entries = []
    for entry in opened.infolist():
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise Unusable(
                f"{archive}: names a path outside itself ({fit(entry.filename, 80)!r}), so nothing of it is unpacked; "
                f"{remedy}"
            )
        # Not is_dir(), which fails on an entry without a name.
        if not entry.filename.endswith("/") and "__MACOSX" not in path.parts:
            entries.append(entry)
    return entries


def _by_content(
    opened: ZipFile, entries: Sequence[ZipInfo], archive: Path, member: ArchiveMember, say: Callable[[str], None]
) -> tuple[str, bytes] | None:
    best: tuple[int, str, bytes] | None = None
    seen, damaged, room = [], [], TOTAL * member.limit
    # Of files with equally many records that of the member's own name comes first.
    for entry in sorted(entries, key=lambda entry: (Path(entry.filename).name != member.name, entry.filename)):
        name = fit(entry.filename, 80)
        if entry.file_size > min(member.limit, room):
            seen.append(f"{name} ({size_words(entry.file_size)}, too long to look into)")
            continue
        room -= entry.file_size
        try:
            with opened.open(entry) as stream:  # zipfile reads no more than the entry says, and checks its sum
                content = stream.read()
        except DAMAGED_ARCHIVE as error:  # a file that nobody needs refuses no other
            damaged.append(f"{name} ({reason(error)})")
            continue
        records = records_of(content)
        if not records:
            seen.append(f"{name} (no records)")
            continue
        seen.append(f"{name} ({len(records)} records with {_fields(records[0])})")
        whole = sum(_holds(record, member.needs) for record in records)
        if whole >= LEAST_SHARE * len(records) and (best is None or len(records) > best[0]):
            best = len(records), entry.filename, content if content[:1] == b"[" else msgspec.json.encode(records)
    if damaged and (best is not None or member.optional):
        more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        say(f"{archive.name}: damaged and left out: {'; '.join(damaged[:_SHOWN])}{more}; {member.name} may be missing")
    if best is not None:
        return best[1:]
    if member.optional:
        return None
    if damaged:
        raise Unusable(
            f"{archive}: {len(damaged)} of its files are damaged: {damaged[0]}; run "
            f"kloc fetch {archive.parent.name} again"
        )
    more = f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
    raise FactError(
        f"{archive}: no file in it has records with {', '.join(member.needs)}; it holds "
        f"{'; '.join(seen[:_SHOWN]) or 'nothing'}{more}; it is kept: run with --relation-source templates, or remove "
        f"it and run kloc fetch {archive.parent.name} when the authors' archive has changed"
    )


def _holds(record: object, needs: Sequence[str]) -> bool:
    for field in needs:
        value: object = record
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value in (None, "", []):
            return False
    return True


def _fields(record: object) -> str:
    names = list(record) if isinstance(record, dict) else []
    shown = ", ".join(fit(str(name), 40) for name in names[:_FIELDS])
    return shown + (", ..." if len(names) > _FIELDS else "") if names else "no fields"
