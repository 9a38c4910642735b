"""The journal of a run: one SQLite file, one transaction a case: a killed process loses the batch in hand at most.

Covers creating, resuming and reading a run folder, and what a record is. The file itself and its damage are
journal.py's, the lock lock.py's. No torch: reports read it anywhere. Times live in a table of their own, since
everything else of a finished run is the same each time.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import msgspec
import numpy as np

from artifact.editing.protocol import all_switches
from artifact.errors import NotBegun, RunError
from artifact.io import write_atomically
from artifact.plans.unit import Unit
from artifact.runs.describe import RunInfo, described, first_difference
from artifact.runs.environment import stored_environments
from artifact.runs.journal import (
    DATABASE,
    DESCRIPTION,
    Journal,
    damaged,
    open_to_read,
    open_to_write,
    run_folders,
    unreadable,
)
from artifact.runs.lock import LOCK, is_there, locked, unwritable_folder
from artifact.runs.numbers import LAYOUT, case_numbers, from_bytes, to_bytes
from artifact.runs.record import Record
from artifact.runs.seals import (
    Checked,
    Tally,
    check,
    keep_tally,
    of_description,
    row_seal,
    seal,
    tally_of,
    unsealed_cases,
)

REPORT = "report"
NOT_ANSWERED = "the model's greedy answer is"
"""How the reason of a traced statement begins that the model does not answer as the data says."""
MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a payload can raise that is not of its unit's kind."""
MOST_TIME = 1e12
"""No run takes so many seconds or cases, and no clock says so."""
_LOOKS = 3
"""How often a reader looks for records that a writer may be replacing before it calls the journal damaged."""


class Store(Journal):
    """A run folder's journal. Writers hold the folder's lock; readers need none.

    A reader looks at every record's seal once, before it gives the first, and leaves out what they do not confirm.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, reads: bool = False) -> None:
        super().__init__(folder, connection, reads)
        self._checked: Checked | None = None
        self._times_checked = False
        self._of = b""
        self.missed = 0

    def checked(self) -> Checked:
        """What the seals say of all records; a reader says what it first saw."""
        if self._checked is None or not self.reads:
            try:
                self._checked = check(self.connection, LAYOUT)
            except sqlite3.Error as error:
                raise unreadable(self.path, error) from None
        return self._checked

    def refuse_damage(self) -> None:
        """Raise RunError where records are damaged or missing: for callers that write more on top.

        A writer computes again what is missing alone, of which `missed` says how many.
        """
        checked = self.checked()
        if checked.missing and not self.reads and not (checked.damaged or checked.tally_lost):
            with self.changing():
                keep_tally(self.connection, checked.tally)
            self.missed = checked.missing
        elif checked.damage:
            raise damaged(self.path, checked.damage)

    @property
    def report_folder(self) -> Path:
        return self.folder / REPORT

    def info(self) -> RunInfo:
        """What the run is; RunError when the journal holds no such entry."""
        stored = self.meta("info")
        if stored is None:
            raise NotBegun(f"{self.folder}: the run never started; run its command again")
        return self.decoded(stored, "its description", RunInfo)

    def environments(self) -> list[dict[str, Any]]:
        """Versions and hardware of every distinct machine that worked on the run."""
        with self.decoding("its environments"):
            return stored_environments(self.meta("environments") or "[]")

    def add_environment(self, environment: dict[str, Any]) -> None:
        known = self.environments()
        if environment not in known:
            self.put("environments", msgspec.json.encode([*known, environment]).decode())

    def description(self) -> bytes:
        """The content of run.json."""
        return msgspec.json.format(msgspec.json.encode(self.info()), indent=1) + b"\n"

    def write_description(self) -> None:
        """run.json beside the journal: what the run is, for people and scripts that do not open SQLite."""
        try:
            write_atomically(self.folder / DESCRIPTION, self.description())
        except FileExistsError:
            raise RunError(f"{self.folder / DESCRIPTION}: is not a regular file; remove it") from None
        except OSError as error:
            raise unwritable_folder(self.folder, error) from None

    def add(self, unit: Unit, record: Record, over_failed: bool = False, sealed: bool = True) -> None:
        """Commit one case with its numbers and seals; a case that is there already stays as it is.

        With `over_failed` a failed one is replaced. Without `sealed` it gets no seal, as one copied from a journal
        that has none for it.
        """
        assert record.status != "undone"
        payload = msgspec.json.encode(record.payload)
        with self.changing():
            if over_failed:
                self._forget_failed(unit, record.case_id)
            stored = None
            if sealed:
                stored = seal(self._description(), unit.name.encode(), record.case_id, record.status.encode(), payload)
            added = self.connection.execute(
                "insert or ignore into records (unit, case_id, status, payload, seal) values (?, ?, ?, ?, ?)",
                (unit.name, record.case_id, record.status, payload.decode(), stored),
            )
            if not added.rowcount:
                return
            keep_tally(self.connection, tally_of(self.connection).plus(stored))
            if record.status == "done":
                row = to_bytes(case_numbers(unit, record.payload))
                self.connection.execute(
                    "insert or replace into numbers (unit, case_id, row, seal) values (?, ?, ?, ?)",
                    (unit.name, record.case_id, row, None if stored is None else row_seal(stored, row)),
                )

    def _forget_failed(self, unit: Unit, case_id: int) -> None:
        where = "from records where unit = ? and case_id = ? and status = 'failed'"
        for (stored,) in self.connection.execute(f"select seal {where}", (unit.name, case_id)).fetchall():
            keep_tally(self.connection, tally_of(self.connection).minus(stored))
        self.connection.execute(f"delete {where}", (unit.name, case_id))

    def add_time(self, unit: Unit, seconds: float, cases: int, ended: float | Literal["now"] | None = "now") -> None:
        """Commit how long `cases` cases of a unit took, and the Unix time when they were stored, None if unknown."""
        clock = time.time() if ended == "now" else ended
        with self.changing():
            self.connection.execute("insert into times values (?, ?, ?, ?)", (unit.name, seconds, cases, clock))

    def done(self, unit: Unit) -> set[int]:
        """Case ids of a unit that have a record of any status."""
        rows = self.rows("select case_id from records where unit = ?", (unit.name,))
        return {case_id for (case_id,) in rows} - self._left_out(unit)

    def records(self, unit: Unit) -> list[Record]:
        """All records of a unit, by case id."""
        return self._records(unit)

    def unsealed(self, unit: Unit) -> set[int]:
        """Cases of a unit that were stored without a seal, by an earlier version."""
        if not self.checked().unsealed:
            return set()
        try:
            return unsealed_cases(self.connection, unit.name)
        except sqlite3.Error as error:
            raise unreadable(self.path, error) from None

    def counts(self) -> dict[str, Counter[str]]:
        """How many records of each status every unit has."""
        if self.reads:
            return self.checked().counts
        counts: dict[str, Counter[str]] = {}
        counted = "select unit, status, count(*) from records group by unit, status"
        for unit, status, count in self.rows(counted):
            counts.setdefault(unit, Counter())[status] = count
        return counts

    def unfinished(self, unit: Unit) -> list[Record]:
        """A unit's records that failed or were excluded, by case id."""
        # By their ids, which the index of states holds: else SQLite reads every record of the unit.
        cases = "select case_id from records where unit = ? and status in ('failed', 'excluded')"
        return self._records(unit, "failed", "excluded", only=f"and case_id in ({cases})")

    def unedited(self, unit: Unit) -> int:
        """How many finished cases of a unit say that their edit changes nothing and the unedited model was scored."""
        # A quote inside a text is escaped, so that no prompt can look like this; decoding all records takes far longer.
        asked = "select case_id from records where unit = ? and status = 'done' and instr(payload, ?) > 0"
        cases = {case_id for (case_id,) in self.rows(asked, (unit.name, '"unedited":true'))}
        return len(cases - self._left_out(unit))

    def numbers(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """Case ids (F,) of a unit's finished records and their numbers (F, X), by case id (numbers.py)."""
        done, left_out = self.counts().get(unit.name, Counter())["done"], self._left_out(unit)
        try:
            if self.meta("numbers") == LAYOUT:
                rows = self.rows("select case_id, row from numbers where unit = ? order by 1", (unit.name,))
                rows = [row for row in rows if row[0] not in left_out] if left_out else rows
                cases, stored = tuple(zip(*rows, strict=True)) or ((), ())
                if len(cases) == done:
                    return np.array(cases, dtype=np.int64), from_bytes(stored)
            records = self._records(unit, "done", only="and status = 'done'")
            made = [(record.case_id, to_bytes(case_numbers(unit, record.payload))) for record in records]
            return np.array([case for case, _ in made], dtype=np.int64), from_bytes([row for _, row in made])
        except MISFITS as error:
            raise damaged(self.path, f"a record of {unit.name} does not fit its unit: {error!r}") from None

    def times(self) -> list[tuple[str, float, int]]:
        """(unit, seconds, cases) summed over all that worked on the run; RunError where a time is not a number."""
        return self._times("select unit, sum(seconds), sum(cases) from times group by unit order by unit")

    def timed(self) -> list[tuple[str, float, int, float | None]]:
        """(unit, seconds, cases, Unix time) of every batch, in the order they were stored."""
        rows = self._times("select * from times order by rowid")
        return [(unit, seconds, cases, ended[0] if ended else None) for unit, seconds, cases, *ended in rows]

    def last_time(self) -> float | None:
        """Unix time of the last stored batch; None where an earlier version stored it."""
        for _, _, _, *ended in self._times("select * from times order by rowid desc limit 1"):
            return ended[0] if ended else None  # earlier versions did not say
        return None

    def _times(self, query: str) -> list[Any]:
        """The rows of a query on times, which are looked through before the first."""
        if not self._times_checked:
            self._check_times()
            self._times_checked = True
        return self.rows(query)

    def _check_times(self) -> None:
        """RunError where a time is of another type: SQLite keeps whatever it is given."""
        columns = {name for _, name, *_ in self.rows("pragma table_info(times)")}
        numbers = {"seconds": "'integer', 'real'", "cases": "'integer'", "ended": "'integer', 'real', 'null'"}
        wrong = " or ".join(
            f"typeof({name}) not in ({types}) or abs({name}) > {MOST_TIME}"
            for name, types in numbers.items()
            if name in columns
        )
        for (unit,) in self.rows(f"select unit from times where {wrong} or typeof(unit) <> 'text' limit 1"):
            raise damaged(self.path, f"a time of {str(unit)[:60]!r} is not a number")

    def _records(self, unit: Unit, *statuses: str, only: str = "") -> list[Record]:
        """A unit's records, by case id; RunError where fewer are found than those of these statuses (default: all)."""
        for _ in range(_LOOKS):
            expected, records = self._expected(unit, *statuses), self._found(unit, only)
            if len(records) >= expected:
                return records
            self._checked = None  # meanwhile a writer may have computed failed cases again
        # An index, or the order of a table, is damaged.
        raise damaged(self.path, f"{expected} records of {unit.name} are there, {len(records)} are found")

    def _found(self, unit: Unit, only: str) -> list[Record]:
        # As blobs: what is left out need not be text.
        columns = "case_id, cast(status as blob), cast(payload as blob)"
        units = (unit.name,) * (1 + only.count("?"))
        rows = self.rows(f"select {columns} from records where unit = ? {only} order by +case_id", units)
        left_out = self._left_out(unit)
        return [
            Record(
                case,
                status.decode(errors="replace"),
                self.decoded(payload, f"the record of {unit.name}, case {case},", dict[str, Any]),
            )
            for case, status, payload in rows
            if case not in left_out
        ]

    def _expected(self, unit: Unit, *statuses: str) -> int:
        """How many records of a unit a reader must find."""
        if not self.reads:
            return 0
        counts = self.counts().get(unit.name, Counter())
        return sum(count for status, count in counts.items() if status in statuses or not statuses)

    def _left_out(self, unit: Unit) -> set[int]:
        """Cases of a unit that a reader passes over."""
        return {case_id for name, case_id in self.checked().damaged if name == unit.name} if self.reads else set()

    def _description(self) -> bytes:
        if not self._of:
            self._of = of_description(self.meta("info") or "")
        return self._of


@contextmanager
def writing(folder: Path) -> Iterator[Store]:
    """The store of `folder`, created if need be, locked for this process until the block ends.

    Raises RunError when the folder cannot be written, another process holds it, or the journal is damaged.
    """
    with locked(folder), _open(folder) as store:
        yield store


@contextmanager
def writing_new(folder: Path) -> Iterator[Store]:
    """The store of a new run in `folder`, as `writing` gives it; where the block fails, all of it is removed.

    Also raises RunError where another process put something there meanwhile, which stays.
    """
    with locked(folder):
        if any(one.name != LOCK for one in folder.iterdir()):
            raise is_there(folder)
        try:
            with _open(folder) as store:
                yield store
        except BaseException as error:
            rmtree(folder, ignore_errors=True)
            raise (unwritable_folder(folder, error) if isinstance(error, OSError) else error) from None


@contextmanager
def _open(folder: Path) -> Iterator[Store]:
    store = Store(folder, open_to_write(folder / DATABASE))
    try:
        store.refuse_damage()
        yield store
    finally:
        store.close()


@contextmanager
def reading(folder: Path) -> Iterator[Store]:
    """The store of an existing run, read only; RunError when there is none."""
    store = Store(folder, open_to_read(folder / DATABASE), reads=True)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def reading_all(folder: Path) -> Iterator[list[Store]]:
    """The store of a run, or the stores of all runs in a folder of runs, by name; RunError when there is none."""
    with ExitStack() as stack:
        yield [stack.enter_context(reading(one)) for one in run_folders(folder)]


def begin(store: Store, info: RunInfo) -> RunInfo:
    """Start the run, or resume it; what is stored already wins where the two may differ (the words of a reason).

    Raises RunError, naming the first difference, when the folder belongs to another plan, model, protocol or setting.
    """
    if store.meta("info") is None:
        if (store.folder / DESCRIPTION).exists():
            raise RunError(
                f"{store.folder}: {DESCRIPTION} tells of a run that {DATABASE} does not hold (emptied or removed); "
                f"put the journal back, or remove {DESCRIPTION} to begin anew"
            )
        with store.together():
            store.put("numbers", LAYOUT)
            keep_tally(store.connection, Tally())
            store.put("info", msgspec.json.encode(info).decode())
        store._of = b""
        return info
    then, now = described(store.info()), described(info)
    for one in (then, now):
        one["switches"] = all_switches(one["switches"])
    apart = ["model_reason", "cases", "given", "file_notes", "memory"]
    # Runs of earlier versions did not say these.
    unsaid = ("moments", "tokenizer_sha256", "reconstructed", "relations", "traced_relations", "parameters")
    apart += [name for name in unsaid if not then.get(name)]
    apart += ["by_relation"] if not then.get("relations") else []
    difference = first_difference(then, now, apart)
    if difference is not None:
        name, before, here = difference
        raise RunError(
            f"{store.folder}: was made with another {name} ({before}, now {here}); name another folder with --out, or "
            "run the command that made it"
        )
    return store.info()
