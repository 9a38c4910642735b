"""Rows of a damaged SQLite file, page by page. SQLite stops at a damaged page; this reads the others.

SQLite itself reads them: in a copy of the file every page that can hold rows is made a table of its own: a new first
page names it as a root, and an inner page of an index becomes a leaf, since its rows are written the same way
(sqlite.org/fileformat2.html, 1.6). So SQLite reads each page's rows with all that they keep on further pages, and a
damaged page costs its own rows alone. The tables and keys that were are unknown: the caller tells by its values what a
row is.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

Value = None | int | float | str | bytes
_MAGIC = b"SQLite format 3\x00"
_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER = 0x0D, 0x0A, 0x02
_COLUMNS = "abcde"
"""As many as the widest table of a journal has."""
_TOGETHER = 200
"""Pages that are tables at a time: SQLite reads all their names anew."""
_CHUNK = 1 << 20
_MOST_PAGES = 1 << 29
"""That are looked at: SQLite takes some more (sqlite.org/limits.html), and the tables' names need their own."""


class Pages:
    """The pages of the file at `path`, each a table of the copy at `scratch`, a new file.

    Raises OSError when `path` cannot be opened or `scratch` not written.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self._scratch = scratch
        size, reserved = _page_form(path)
        with scratch.open("w+b") as file:
            count, written = _copy(path, file, size)
            self._kinds = {number: kind for number in written if (kind := _opened(file, number, size))}
            _write_first(file, scratch.with_name(scratch.name + "-new"), size, reserved, count)

    def rows(self) -> Iterator[tuple[int | None, tuple[Value, ...]]]:
        """(rowid, values) of every row that SQLite can read; no rowid in an index or a table without it.

        Values are cut after the last that is not NULL; bytes of a text that are not UTF-8 become surrogates. Pages
        that are no longer used may give rows twice, or as they once were.
        """
        numbers = list(self._kinds)
        with closing(sqlite3.connect(self._scratch, isolation_level=None)) as connection:
            connection.text_factory = lambda text: text.decode(errors="surrogateescape")
            for pragma in ("journal_mode = off", "synchronous = off", "cell_size_check = off", "trusted_schema = off"):
                connection.execute(f"pragma {pragma}")
            for start in range(0, len(numbers), _TOGETHER):
                part = numbers[start : start + _TOGETHER]
                _name(connection, part, self._kinds)
                for number in part:
                    yield from _page_rows(connection, number, self._kinds[number] == _TABLE_LEAF)


def _page_form(path: Path) -> tuple[int, int]:
    """The size of a page, and how many of its bytes are reserved; SQLite's defaults where the first page is lost."""
    with path.open("rb") as file:
        try:
            head = file.read(100)
        except OSError:
            head = b""
    told = int.from_bytes(head[16:18])
    size = 65536 if told == 1 else told
    if head.startswith(_MAGIC) and size >= 512 and size & (size - 1) == 0 and size - head[20] >= 480:
        return size, head[20]
    return 4096, 0


def _copy(path: Path, file: BinaryIO, size: int) -> tuple[int, list[int]]:
    """Copy all that can be read, zeros for the rest, in whole pages; returns how many, and which may hold rows.

    Holes stay holes, and one at the end is left out: by a damaged length a small file has terabytes.
    """
    source = os.open(path, os.O_RDONLY)
    written: dict[int, None] = {}
    try:
        for begin, end in _stretches(source, min(os.fstat(source).st_size, _MOST_PAGES * size)):
            for start in range(begin, end, _CHUNK):
                file.seek(start)
                file.write(_read(source, start, min(_CHUNK, end - start)))
            written.update(dict.fromkeys(range(begin // size + 1, -(-end // size) + 1)))
    finally:
        os.close(source)
    count = max(written, default=0)
    file.truncate(count * size)
    written.pop(1, None)
    return count, list(written)


def _stretches(source: int, length: int) -> Iterator[tuple[int, int]]:
    """Where each stretch of a file's first `length` bytes that is not a hole begins and ends."""
    end = 0
    while end < length:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
            after = os.lseek(source, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the file's end
                return
            begin, after = end, length  # a file system that does not tell
        end = min(after, length)
        if begin < end:
            yield begin, end


def _read(source: int, start: int, length: int) -> bytes:
    try:
        return os.pread(source, length, start).ljust(length, b"\0")
    except OSError:  # a sector that the disk gave up
        if length <= 512:
            return bytes(length)
        half = length // 2
        return _read(source, start, half) + _read(source, start + half, length - half)


def _opened(file: BinaryIO, number: int, size: int) -> int:
    """The kind of a page that can hold rows, an inner one made a leaf; 0 for any other."""
    file.seek((number - 1) * size)
    kind = file.read(1)[0]
    if kind != _INDEX_INNER:
        return kind if kind in (_TABLE_LEAF, _INDEX_LEAF) else 0
    file.seek((number - 1) * size)
    page = bytearray(file.read(size))
    cells = int.from_bytes(page[3:5])
    if 12 + 2 * cells > size:
        return 0
    # A leaf's header is four bytes shorter, and so is each cell: it names no page below it.
    starts = [(int.from_bytes(page[at : at + 2]) + 4) % 65536 for at in range(12, 12 + 2 * cells, 2)]
    page[0] = _INDEX_LEAF
    page[8 : 8 + 2 * cells] = b"".join(start.to_bytes(2) for start in starts)
    file.seek((number - 1) * size)
    file.write(page)
    return _INDEX_LEAF


def _write_first(file: BinaryIO, new: Path, size: int, reserved: int, count: int) -> None:
    """Put the first page of an empty database, of `count` pages, in place of the first."""
    with closing(sqlite3.connect(new)) as connection:
        connection.execute(f"pragma page_size = {size}")
        connection.execute("vacuum")
    page = bytearray(new.read_bytes()[:size])
    new.unlink()
    page[20] = reserved
    if reserved:  # the page's cells, of which it has none, begin where the reserved bytes do
        page[105:107] = ((size - reserved) % 65536).to_bytes(2)
    page[28:32] = max(count, 1).to_bytes(4)
    page[92:96] = page[24:28]
    file.seek(0)
    file.write(page)


def _name(connection: sqlite3.Connection, pages: Sequence[int], kinds: dict[int, int]) -> None:
    """Make these pages, and no others, the tables of the database."""
    connection.execute("pragma writable_schema = on")
    connection.execute("begin")
    connection.execute("delete from sqlite_master")
    columns = ", ".join(_COLUMNS)
    for number in pages:
        keyed = "" if kinds[number] == _TABLE_LEAF else ", primary key (a, b)) without rowid"
        made = f"create table p{number} ({columns}" + (keyed or ")")
        connection.execute(
            "insert into sqlite_master values ('table', ?, ?, ?, ?)", (f"p{number}", f"p{number}", number, made)
        )
    connection.execute("commit")
    connection.execute("pragma writable_schema = reset")


def _page_rows(
    connection: sqlite3.Connection, number: int, by_rowid: bool
) -> list[tuple[int | None, tuple[Value, ...]]]:
    """A page's rows; where one of them cannot be read, each of the others by its place, which passes over that one."""
    query = f"select {'rowid' if by_rowid else 'null'}, {', '.join(_COLUMNS)} from p{number}"
    rows: dict[tuple[int | None, tuple[Value, ...]], None] = {}
    if _read_into(rows, connection, query):
        return list(rows)
    with suppress(sqlite3.Error):
        ((count,),) = connection.execute(f"select count(*) from p{number}")
        for place in range(count):
            _read_into(rows, connection, f"{query} limit 1 offset {place}")
    return list(rows)


def _read_into(
    rows: dict[tuple[int | None, tuple[Value, ...]], None], connection: sqlite3.Connection, query: str
) -> bool:
    """Add the rows of a query, as far as they can be read; whether all of them could."""
    try:
        for rowid, *values in connection.execute(query):
            while values and values[-1] is None:
                values.pop()
            rows[rowid, tuple(values)] = None
    except sqlite3.Error:
        return False
    return True
