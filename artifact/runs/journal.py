"""The journal's file: opened to write or to read, looked through for damage, and what is said when it fails.

Covers the schema, what a kill leaves behind, files of other programs, and errors in words. What a record is and who may
write stand in store.py; what is whole in a damaged file is saved by recover.py.
"""

import os
import shlex
import sqlite3
from pathlib import Path
from urllib.parse import quote

from artifact.errors import NotBegun, RunError

DATABASE = "run.sqlite"
_SCHEMA = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists records (
    unit text not null, case_id integer not null, status text not null, payload text not null,
    primary key (unit, case_id)
) without rowid;
create index if not exists states on records (unit, status);
create table if not exists numbers (
    unit text not null, case_id integer not null, row blob not null, primary key (unit, case_id)
) without rowid;
create table if not exists times (unit text not null, seconds real not null, cases integer not null, ended real);
"""
_TABLES = {"meta", "records", "times"}
_PATIENCE = 60.0
"""Seconds that reader and writer wait for one another: a report of a long run reads for seconds."""
_CHUNK = 1 << 20


def open_to_write(path: Path) -> sqlite3.Connection:
    """The journal at `path`, made if need be and free of damage; RunError when it cannot be used.

    Journals of earlier versions get what they lack.
    """
    try:
        connection = _connect(path, "mode=rwc")
    except sqlite3.Error as error:
        raise unwritable(path, error) from None
    try:
        if _is_journal(path, connection):
            _check(path, connection)
        connection.execute("pragma synchronous = normal")
        connection.executescript(f"begin; {_SCHEMA} commit;")  # a killed process leaves all tables or none
        if not any(name == "ended" for _, name, *_ in connection.execute("pragma table_info(times)")):
            connection.execute("alter table times add column ended real")
    except sqlite3.Error as error:
        connection.close()
        raise unwritable(path, error) from None
    except RunError:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The journal at `path`, which no statement can change; RunError when there is none or it cannot be used."""
    if not path.is_file():
        raise RunError(f"{path.parent}: holds no {DATABASE}; name a run folder, such as results/smoke")
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
    """Raise RunError when pages of the file, or payloads, are damaged: a run should not go on upon them."""
    try:
        with path.open("rb", buffering=0) as file:
            # SQLite looks at pages in the order of its trees, which from a disk takes ten times as long.
            while file.read(_CHUNK):
                pass
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    (found,) = connection.execute("pragma quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, " ".join(found.replace("*** in database main ***", "").split()))
    broken = "select unit, case_id from records where not json_valid(payload) limit 1"
    for unit, case_id in connection.execute(broken):
        raise damaged(path, f"the record of {unit}, case {case_id}, is no JSON")


def half_written(path: Path) -> bool:
    """Whether a process was killed, or is, in the middle of a transaction."""
    journal = path.with_name(path.name + "-journal")
    return journal.is_file() and journal.stat().st_size > 0


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
