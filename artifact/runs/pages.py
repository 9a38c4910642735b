"""Rows of a SQLite file page by page, without SQLite, which gives up all that lies beneath a damaged page.

Covers whole rows of tables and of tables without rowid (index pages), with what they keep on further pages, in UTF-8;
source: sqlite.org/fileformat2.html. It knows neither tables nor keys: which row is what is told from its values.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

Value = None | int | float | str | bytes
_MAGIC = b"SQLite format 3\x00"
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of the integers, by serial type."""


class _BadRow(Exception):
    """Bytes that are no row."""


def rows(path: Path) -> Iterator[tuple[int | None, tuple[Value, ...]]]:
    """(rowid, values) of every whole row, in the order of the file; no rowid in an index or a table without it.

    Pages that are no longer used may give rows twice, or as they once were. Raises OSError when the file cannot be
    opened.
    """
    with closing(_File(path)) as file:
        for number in range(1, file.pages + 1):
            yield from _page_rows(file, number)


class _File:
    """Pages by number, from 1; what cannot be read is empty."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(self._descriptor).st_size
        head = self._read(0, 100)
        self.size, reserved = 4096, 0
        if head.startswith(_MAGIC):
            told = int.from_bytes(head[16:18]) or 4096
            self.size, reserved = 65536 if told == 1 else told, head[20]
        self.usable = self.size - reserved
        self.pages = -(-size // self.size)

    def page(self, number: int) -> bytes:
        return self._read((number - 1) * self.size, self.size)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, start)
        except OSError:  # a sector that the disk gave up
            return b""


def _page_rows(file: _File, number: int) -> Iterator[tuple[int | None, tuple[Value, ...]]]:
    page = file.page(number)
    head = 100 if number == 1 else 0
    kind = page[head] if len(page) > head + 8 else 0
    if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
        return
    pointers = head + (12 if kind == _INDEX_INTERIOR else 8)
    for at in range(pointers, pointers + 2 * int.from_bytes(page[head + 3 : head + 5]), 2):
        with suppress(_BadRow):
            cell = int.from_bytes(page[at : at + 2])
            length, cell = _varint(page, cell + (4 if kind == _INDEX_INTERIOR else 0))
            rowid = None
            if kind == _TABLE_LEAF:
                rowid, cell = _varint(page, cell)
            yield rowid, _values(_payload(file, page, cell, length, kind))


def _payload(file: _File, page: bytes, start: int, length: int, kind: int) -> bytes:
    """A cell's payload: what the page holds of it, and the rest from the chain of further pages."""
    usable = file.usable
    most = usable - 35 if kind == _TABLE_LEAF else (usable - 12) * 64 // 255 - 23
    here = length
    if length > most:
        least = (usable - 12) * 32 // 255 - 23
        here = least + (length - least) % (usable - 4)
        here = here if here <= most else least
    if length > file.pages * file.size or start + here > len(page):
        raise _BadRow
    parts, missing = [page[start : start + here]], length - here
    following = int.from_bytes(page[start + here : start + here + 4])
    while missing:
        further = file.page(following) if 0 < following <= file.pages else b""
        part = further[4 : 4 + min(missing, usable - 4)]
        if not part:
            raise _BadRow
        parts.append(part)
        missing -= len(part)
        following = int.from_bytes(further[:4])
    return b"".join(parts)


def _values(payload: bytes) -> tuple[Value, ...]:
    """The values of a row in SQLite's record format."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    found: list[Value] = []
    for kind in kinds:
        length = (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else _INTEGERS.get(kind, 0)
        content = payload[at : at + length]
        at += length
        if kind in (0, 8, 9):
            found.append({0: None, 8: 0, 9: 1}[kind])
        elif kind in _INTEGERS:
            found.append(int.from_bytes(content, signed=True))
        elif kind == 7:
            found.append(_float(content))
        elif kind >= 12:
            found.append(_text(content) if kind % 2 else content)
        else:
            raise _BadRow
    if at != len(payload):
        raise _BadRow
    return tuple(found)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The integer of one to nine bytes at `at`, and where it ends."""
    if at < len(content) and content[at] < 0x80:
        return content[at], at + 1
    value = 0
    for place in range(9):
        if at + place >= len(content):
            raise _BadRow
        byte = content[at + place]
        if place == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    raise _BadRow


def _float(content: bytes) -> float:
    if len(content) != 8:
        raise _BadRow
    return struct.unpack(">d", content)[0]


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _BadRow from None
