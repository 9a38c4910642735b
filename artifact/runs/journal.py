"""The journal's file: opened to write or to read, looked through for damage, and what is said when it fails.

Covers the schema, what a kill leaves behind, files of other programs, and errors in words. What a record is and who may
write stand in store.py; what is whole in a damaged file is saved by recover.py.
"""

import os
import shlex
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from artifact.errors import NotBegun, RunError
from artifact.io import NOT_JSON, reason
from artifact.runs.lock import LOCK
from artifact.runs.seals import has_seals

DATABASE, DESCRIPTION = "run.sqlite", "run.json"
_SCHEMA = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists records (
    unit text not null, case_id integer not null, status text not null, payload text not null, seal blob,
    primary key (unit, case_id)
) without rowid;
create index if not exists states on records (unit, status);
create table if not exists numbers (
    unit text not null, case_id integer not null, row blob not null, seal blob, primary key (unit, case_id)
) without rowid;
create table if not exists times (unit text not null, seconds real not null, cases integer not null, ended real);
"""
_TABLES = {"meta", "records", "times"}
_ADDED = {"records": "seal blob", "numbers": "seal blob", "times": "ended real"}
"""Columns that are missing in tables of earlier versions."""
_PATIENCE = 60.0
"""Seconds that reader and writer wait for one another: a report of a long run reads for seconds."""
_CHUNK = 1 << 20
_ROLLBACK = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""How a rollback journal of SQLite begins."""
_LONGEST = 200
"""Characters of a path that are shown."""
_T = TypeVar("_T")


class Journal:
    """An open journal: reads and writes of it, whose failures are RunErrors of one line."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, reads: bool = False) -> None:
        self.folder, self.path = folder, folder / DATABASE
        self.connection = connection
        self.reads = reads
        self._open = False

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """What a query finds."""
        # All at once: while a statement is stepped through, a writer waits.
        try:
            return self.connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from None

    def meta(self, key: str) -> str | None:
        """What is kept of the run as a whole under this name."""
        rows = self.rows("select value from meta where key = ?", (key,))
        return rows[0][0] if rows else None

    def put(self, key: str, value: str) -> None:
        """Keep it so, in place of what was there."""
        with self.changing():
            self.connection.execute("insert or replace into meta values (?, ?)", (key, value))

    def decoded(self, text: str | bytes, what: str, kind: type[_T]) -> _T:
        """Stored JSON; RunError where it is damaged, which names it as `what`."""
        with self.decoding(what):
            return msgspec.json.decode(text, type=kind)

    @contextmanager
    def decoding(self, what: str) -> Iterator[None]:
        """Decode stored JSON within: RunError where it is damaged, which names it as `what`."""
        try:
            yield
        except NOT_JSON as error:
            raise damaged(self.path, f"{what} cannot be read: {reason(error)}") from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Write the block's changes in one transaction, or in that of `together`."""
        if self._open:
            yield
            return
        try:
            with self.connection:
                yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise unwritable(self.path, error) from None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all of the block in one transaction; only for merged or recovered stores."""
        if self._open:
            yield
            return
        with self.changing():
            self.connection.execute("begin")
            self._open = True
            try:
                yield
            finally:
                self._open = False

    def close(self) -> None:
        self.connection.close()


def open_to_write(path: Path) -> sqlite3.Connection:
    """The journal at `path`, made if need be and free of damage; RunError when it cannot be used.

    Journals of earlier versions get what is missing.
    """
    there = journal_file(path)
    if path.is_symlink():
        raise RunError(f"{path}: is a link, and a run's journal is written to in its own folder only; put it there")
    _refuse_strangers(path)
    try:
        connection = _connect(path, "mode=rwc")
        try:
            if _is_journal(path, connection) and there:
                _check_size(path, connection)
                _check(path, connection)
            connection.execute("pragma synchronous = normal")
            connection.executescript(f"begin; {_SCHEMA} commit;")  # a killed process leaves all tables or none
            for table, column in _ADDED.items():
                known = {name for _, name, *_ in connection.execute(f"pragma table_info({table})")}
                if column.split()[0] not in known:
                    connection.execute(f"alter table {table} add column {column}")
        except (sqlite3.Error, RunError):
            connection.close()
            raise
    except sqlite3.Error as error:
        raise unwritable(path, error) from None
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The journal at `path`, which no statement can change; RunError when there is none or it cannot be used."""
    if not journal_file(path):
        raise RunError(f"{path.parent}: {no_journal(path.parent)}; name a run folder, such as results/smoke")
    _refuse_strangers(path)
    how = "mode=ro"
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        how = "mode=rw"  # the next to open a journal takes back what a killed process wrote of a transaction
    elif os.statvfs(path.parent).f_flag & os.ST_RDONLY and not half_written(path):
        how = "mode=ro&immutable=1"  # what cannot change needs no lock, which a read-only disk may refuse
    try:
        connection = _connect(path, how)
        try:
            connection.execute("pragma query_only = on")
            if not _is_journal(path, connection):
                raise NotBegun(f"{path.parent}: the run never started; run its command again")
            _check_size(path, connection)
        except (sqlite3.Error, RunError):
            connection.close()
            raise
    except sqlite3.Error as error:
        raise unreadable(path, error) from None
    return connection


def unreadable(path: Path, error: sqlite3.Error) -> RunError:
    """What is said when a journal cannot be read."""
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunError(f"{path}: another process is writing to it; try again in a minute")
    if code == sqlite3.SQLITE_READONLY:
        return RunError(
            f"{path}: its process was killed in the middle of a write, which cannot be taken back in a folder that "
            "cannot be written; copy the folder to one you own and name the copy"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return RunError(f"{path}: cannot be read ({error}); change its permissions")
    return damaged(path, str(error))


def unwritable(path: Path, error: sqlite3.Error) -> RunError:
    """What is said when a journal cannot be written."""
    code = _code(error)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_CANTOPEN:
        return RunError(f"{path}: cannot be opened ({error}); change its permissions, or move away what is there")
    return RunError(
        f"{path}: cannot be written ({error}); free disk space or mend permissions and run the same command again: "
        "what was stored is kept"
    )


def damaged(path: Path, what: str) -> RunError:
    """What is said of a damaged journal."""
    return RunError(
        f"{path}: cannot be used as a run's journal ({what}); save what is whole in it with: kloc recover "
        f"{shlex.quote(str(path.parent))} --out NEW"
    )


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, timeout=_PATIENCE)


def belongs_to_a_run(path: Path) -> bool:
    """Whether a file at `path` is, or would be, what `kloc` itself keeps there of a run: journal, description, lock."""
    kept = (DATABASE, f"{DATABASE}-journal", DESCRIPTION, LOCK)
    return path.name in kept and os.path.lexists(path.with_name(DATABASE))


def journal_file(path: Path) -> bool:
    """Whether a file is at `path`; RunError where it cannot be known, or what is there is neither file nor folder."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        shown = str(path.parent) if len(str(path.parent)) <= _LONGEST else f"{str(path.parent)[:_LONGEST]}..."
        raise RunError(
            f"{shown}: cannot be looked into ({reason(error)}); name a run folder that you can read"
        ) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise RunError(f"{path}: is not a regular file, so it cannot be a run's journal; move it away")
    return stat.S_ISREG(mode)


def no_journal(folder: Path) -> str:
    """Why a folder that was named as a run's is none."""
    if folder.is_dir():
        return f"holds no {DATABASE}"
    return "is a file, and a run is a folder" if folder.exists() else "is not there"


def run_folders(folder: Path) -> list[Path]:
    """The run folders that a user means by `folder`: itself, or all in it by name; RunError where none can be there."""
    if journal_file(folder / DATABASE):
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{DATABASE}")) or [folder]


def _refuse_strangers(path: Path) -> None:
    """Raise RunError for files beside the journal that SQLite would take for its own and write into it.

    A write-ahead log is never ours. A rollback journal is that of another database where it would bring back another
    first page than ours was, or another number of pages.
    """
    log = path.with_name(path.name + "-wal")
    if os.path.lexists(log):
        raise damaged(path, f"{log.name} beside it is another program's: move it away, or")
    kept = path.with_name(path.name + "-journal")
    if os.path.lexists(kept) and not stat.S_ISREG(kept.lstat().st_mode):
        raise damaged(path, f"{kept.name} beside it is not a regular file: move it away, or")
    if half_written(path) and not goes_with(kept, path):
        raise damaged(path, f"{kept.name} beside it is that of another file: move it away, or")


def goes_with(kept: Path, path: Path) -> bool:
    """Whether a rollback journal can be that of the file at `path` (sqlite.org/fileformat2.html, 3)."""
    try:
        with path.open("rb") as file:
            first, size = file.read(100), os.fstat(file.fileno()).st_size
        with kept.open("rb") as file:
            head = file.read(28)
            if len(head) < 28 or not head.startswith(_ROLLBACK) or len(first) < 100:
                return True  # SQLite passes over it
            pages, sector, page_size = (int.from_bytes(head[at : at + 4]) for at in (16, 20, 24))
            file.seek(sector)
            before = None
            while len(record := file.read(page_size + 8)) == page_size + 8:
                if record[:4] == b"\0\0\0\1":
                    before = record[4:104]
                    break
    except OSError:
        return True  # who opens it will say
    if page_size != (int.from_bytes(first[16:18]) % 65535 or 65536) or pages * page_size > size:
        return False
    changes = [int.from_bytes(one[24:28]) for one in (first, before or first)]
    counted = int.from_bytes((before or first)[28:32])
    return counted == pages and changes[0] - changes[1] in (0, 1)


def _check_size(path: Path, connection: sqlite3.Connection) -> None:
    """Raise RunError when the file is shorter or longer than the pages that it counts."""
    connection.execute("begin")
    try:
        connection.execute("select count(*) from sqlite_master").fetchone()  # from here on no writer can change it
        ((pages,),) = connection.execute("pragma page_count")
        ((size,),) = connection.execute("pragma page_size")
        there = path.stat().st_size
    finally:
        connection.rollback()
    if there != pages * size:
        raise damaged(path, f"it has {there} bytes, and its {pages} pages take {pages * size}")


def _is_journal(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether the file holds a journal; False for a new or empty one, RunError for another program's database."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    if tables and not tables >= _TABLES:
        raise RunError(
            f"{path}: is the database of another program (tables {', '.join(sorted(tables)[:3])}); name another folder "
            "with --out"
        )
    return bool(tables)


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise RunError when pages of the file, or payloads, are damaged: a run must not go on with them."""
    try:
        with path.open("rb", buffering=0) as file:
            # SQLite looks at pages in the order of its trees, which from a disk takes ten times as long.
            while file.read(_CHUNK):
                pass
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    (said,) = connection.execute("pragma quick_check(1)").fetchone()
    if said != "ok":
        raise damaged(path, " ".join(said.replace("*** in database main ***", "").split()))
    if has_seals(connection):
        return  # they say more (store.py)
    broken = "select unit, case_id from records where not json_valid(payload) limit 1"
    for unit, case_id in connection.execute(broken):
        raise damaged(path, f"the record of {unit}, case {case_id}, is not JSON")


def half_written(path: Path) -> bool:
    """Whether a process was killed, or is, in the middle of a transaction."""
    journal = path.with_name(path.name + "-journal")
    return journal.is_file() and journal.stat().st_size > 0


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
