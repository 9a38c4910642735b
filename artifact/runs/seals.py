"""Checksums of a journal's records: each is tied to the run's description, and a tally knows how many there are.

A record's seal is over the description as it is stored, unit, case, status and payload; the seal of its row of numbers
over the record's seal and the row. So a changed byte, a record of another run and a record under another unit are
noticed, and by the tally a missing one. Seals guard against damage and mixing. They are not a signature: whoever
changes a record on purpose can compute its seal, too. Journals of earlier versions have none; their records count as
unsealed.
"""

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any

from artifact.sizes import count_of
from artifact.terminal import shown

TALLY = "seals"
"""Key of the journal's tally: how many sealed records, the sum of their seals (exclusive or), how many unsealed."""
_LENGTH = 16


def of_description(stored: str | bytes) -> bytes:
    """What stands for the run's description in every seal: the hash of its text as it is stored."""
    return sha256(stored.encode() if isinstance(stored, str) else stored).digest()


def seal(of: bytes, unit: bytes, case_id: int, status: bytes, payload: bytes) -> bytes:
    """A record's seal; `of` is the description's (of_description), the rest as the journal holds it."""
    return sha256(b"%b%b\0%d\0%b\0%b" % (of, unit, case_id, status, payload)).digest()[:_LENGTH]


def row_seal(record: bytes, row: bytes) -> bytes:
    """The seal of a record's row of numbers."""
    return sha256(record + row).digest()[:_LENGTH]


@dataclass(frozen=True)
class Tally:
    """What a journal should hold: sealed records, the sum of their seals, and unsealed records."""

    sealed: int = 0
    total: int = 0
    unsealed: int = 0

    @classmethod
    def read(cls, text: str | bytes) -> "Tally":
        """The tally as it is stored; ValueError for anything else."""
        sealed, total, unsealed = text.split()
        return cls(int(sealed), int(total, 16), int(unsealed))

    def text(self) -> str:
        return f"{self.sealed} {self.total:032x} {self.unsealed}"

    def plus(self, stored: bytes | None) -> "Tally":
        """With one more record, sealed or not."""
        if stored is None:
            return Tally(self.sealed, self.total, self.unsealed + 1)
        return Tally(self.sealed + 1, self.total ^ int.from_bytes(stored), self.unsealed)

    def minus(self, stored: bytes | None) -> "Tally":
        """Without one record, sealed or not."""
        if stored is None:
            return Tally(self.sealed, self.total, self.unsealed - 1)
        return Tally(self.sealed - 1, self.total ^ int.from_bytes(stored), self.unsealed)


@dataclass(frozen=True)
class Checked:
    """What a look at all records of a journal found.

    `damaged` are the records, by (unit, case), that their seals do not confirm, `missing` how many more the tally knows
    that are not there, `unsealed` how many have no seal to look at, `replaced` whether one stands where another stood.
    `counts` are those of the others, by unit and status, `tally` is the one as it would be without what is missing.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    damaged: dict[tuple[str, int], None] = field(default_factory=dict)
    missing: int = 0
    unsealed: int = 0
    replaced: bool = False
    tally_lost: bool = False
    tally: Tally = Tally()

    @property
    def harmed(self) -> int:
        """Records that do not count because they are damaged or gone."""
        return len(self.damaged) + self.missing

    @property
    def damage(self) -> str:
        """What is damaged, in words; empty where nothing is."""
        parts = []
        if self.damaged:
            (unit, case_id), count = next(iter(self.damaged)), len(self.damaged)
            records = count_of(count, "record")
            parts.append(f"{records} left out that no checksum confirms, the first {shown(unit)[:60]} case {case_id}")
        if self.missing:
            parts.append(f"{self.missing} missing")
        if self.replaced:
            parts.append("a record is not the last that was stored")
        if self.tally_lost:
            parts.append("the tally of records cannot be read")
        return f"damaged: {'; '.join(parts)}" if parts else ""

    @property
    def unsealed_words(self) -> str:
        """How many records have no seal, in words; empty where none."""
        if not self.unsealed:
            return ""
        return f"{self.unsealed} records are unsealed: an earlier version made them, without checksums"


def check(connection: sqlite3.Connection, layout: str) -> Checked:
    """Look at every record's seal, in one pass over the journal; `layout` is that of the rows that are read.

    Raises sqlite3.Error.
    """
    before = connection.text_factory
    connection.execute("begin")  # all that follows sees one state
    connection.text_factory = bytes
    try:
        return _check(connection, layout.encode())
    finally:
        connection.text_factory = before
        connection.rollback()


def _check(connection: sqlite3.Connection, layout: bytes) -> Checked:
    meta = dict(connection.execute("select key, value from meta").fetchall())
    of, tally = of_description(meta.get(b"info") or b""), _tally(meta.get(TALLY.encode()))
    throughout = tally is not None and tally.unsealed == 0
    counts: dict[str, Counter[str]] = {}
    damaged: dict[tuple[str, int], None] = {}
    sealed = total = unsealed = 0
    column = "seal" if has_seals(connection) else "null"
    query = f"select unit, case_id, status, payload, {column} from records"
    for unit, records in groupby(connection.execute(query), key=itemgetter(0)):
        rows = _rows(connection, unit) if column == "seal" and meta.get(b"numbers") == layout else None
        name = _text(unit)
        states: Counter[bytes] = Counter()
        for _, case_id, status, payload, stored in records:
            if stored is None and not throughout:
                unsealed += 1
            elif _holds(of, unit, case_id, status, payload, stored, rows):
                sealed += 1
                total ^= int.from_bytes(stored)
            else:
                damaged[name, case_id] = None
                continue
            states[status] += 1
        counts.setdefault(name, Counter()).update({_text(status): count for status, count in states.items()})
    lost = tally is None and (column == "seal" and (sealed > 0 or len(damaged) > 0) or TALLY.encode() in meta)
    missing = 0
    if tally is not None:
        missing = max(0, tally.sealed + tally.unsealed - sealed - unsealed - len(damaged))
    whole = Tally(sealed, total, unsealed)
    replaced = tally is not None and not missing and not damaged and whole != tally
    return Checked(counts, damaged, missing, unsealed, replaced, lost, whole)


def tally_of(connection: sqlite3.Connection) -> Tally:
    """The journal's tally; one of an earlier version has none yet, and all its records are unsealed."""
    stored = connection.execute("select value from meta where key = ?", (TALLY,)).fetchone()
    if stored is None:
        ((unsealed,),) = connection.execute("select count(*) from records where seal is null")
        return Tally(unsealed=unsealed)
    return Tally.read(stored[0])


def keep_tally(connection: sqlite3.Connection, tally: Tally) -> None:
    """Store the tally, in the transaction of what it counts."""
    kept = connection.execute("update meta set value = ? where key = ?", (tally.text(), TALLY))
    if not kept.rowcount:
        connection.execute("insert into meta values (?, ?)", (TALLY, tally.text()))


def _holds(
    of: bytes, unit: Any, case_id: Any, status: Any, payload: Any, stored: Any, rows: dict[int, tuple[Any, Any]] | None
) -> bool:
    """Whether a record is the one that was sealed, and its row of numbers too; a row that is gone can be made again."""
    try:
        if seal(of, unit, case_id, status, payload) != stored:
            return False
        if rows is None or (kept := rows.get(case_id)) is None:
            return True
        return row_seal(stored, kept[0]) == kept[1]
    except TypeError:  # a value of another kind
        return False


def _tally(stored: bytes | None) -> Tally | None:
    try:
        return None if stored is None else Tally.read(stored)
    except (AttributeError, TypeError, ValueError):
        return None


def has_seals(connection: sqlite3.Connection) -> bool:
    """Whether the journal's tables have a column of seals; those of earlier versions have none."""
    return any(name in ("seal", b"seal") for _, name, *_ in connection.execute("pragma table_info(records)"))


def unsealed_cases(connection: sqlite3.Connection, unit: str) -> set[int]:
    """The cases of a unit whose records have no seal."""
    only = "and seal is null" if has_seals(connection) else ""
    return {case for (case,) in connection.execute(f"select case_id from records where unit = ? {only}", (unit,))}


def _rows(connection: sqlite3.Connection, unit: object) -> dict[int, tuple[Any, Any]]:
    """A unit's rows of numbers and their seals, by case."""
    query = "select case_id, row, seal from numbers where unit = ?"
    # Bound as text: the keys are texts, and bytes would be compared as blobs.
    return {case: (row, of_row) for case, row, of_row in connection.execute(query, (_text(unit),))}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
