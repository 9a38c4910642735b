"""Save what is whole in a damaged journal: its records, into a new run that the run's own command then finishes.

Covers damaged, zeroed and missing pages, the lost first page, payloads that do not decode or do not fit their unit, and
a description that is read from run.json. The damaged folder stays as it is. A record is whole when its seal confirms it
(seals.py). One of an earlier version, without a seal, is whole when its payload fits its unit and gives the numbers
stored with it, where there are any: of two that disagree, neither is kept. A changed digit that affects no stored
number is not noticed. Such a record stays without a seal.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from artifact.errors import RunError
from artifact.io import NOT_JSON
from artifact.plans.unit import Unit
from artifact.runs.describe import RunInfo
from artifact.runs.environment import stored_environments
from artifact.runs.journal import DATABASE, DESCRIPTION, goes_with, half_written, journal_file, no_journal
from artifact.runs.lock import holder, refuse_existing
from artifact.runs.numbers import LAYOUT, case_numbers, from_bytes
from artifact.runs.record import Record
from artifact.runs.salvage import Pages
from artifact.runs.seals import TALLY, Tally, of_description, seal
from artifact.runs.store import MISFITS, MOST_TIME, Store, begin, writing_new

_STATUSES = ("done", "excluded", "failed")
_PAYLOAD = msgspec.json.Decoder(dict[str, Any])


def _is_time(*values: float) -> bool:
    return all(abs(value) <= MOST_TIME for value in values)


@dataclass(frozen=True)
class Saved:
    """Cases of one unit: saved, known to be lost, and left to compute, the lost ones among them."""

    unit: str
    saved: int
    lost: int
    left: int


def recover(folder: Path, out: Path) -> list[Saved]:
    """Write every whole record of the run in `folder` into a new run in `out`; what was saved, by unit of its plan.

    Raises RunError when `folder` holds no journal or another process works on it, when nothing tells what the run is,
    and when `out` is there already or cannot be written.
    """
    path = folder / DATABASE
    if not journal_file(path):
        raise RunError(f"{folder}: {no_journal(folder)}; name the folder of a damaged run")
    if (who := holder(folder)) is not None:
        raise RunError(f"{folder}: is in use by {who}; stop it first")
    refuse_existing(out)
    with writing_new(out) as store, _settled(path, out) as settled:
        with store.together():
            saved = _save(_Salvaged(*settled), folder, store)
        store.write_description()
    return saved


@dataclass(frozen=True)
class _Stored:
    """A record as the journal holds it, with its seal where it has one."""

    unit: str
    case_id: int
    status: str
    payload: str
    seal: bytes | None

    def confirmed(self, of: bytes) -> bool:
        """Whether its seal, under the description that `of` stands for, is the one it has."""
        texts = [text.encode(errors="surrogateescape") for text in (self.unit, self.status, self.payload)]
        return seal(of, texts[0], self.case_id, *texts[1:]) == self.seal


class _Salvaged:
    """What a damaged journal says, row by row."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.meta: dict[str, tuple[int, str]] = {}
        self.numbers: dict[tuple[str, int], bytes] = {}
        self.known: set[tuple[str, int]] = set()
        self.times: dict[int, tuple[str, float, int, float | None]] = {}
        self._pages = Pages(path, scratch)
        for rowid, row in self._pages.rows():
            match rowid, row:
                case int(), (str(key), str(text)):
                    if rowid >= self.meta.get(key, (0, ""))[0]:
                        self.meta[key] = rowid, text
                case int(), (str(unit), int() | float() as seconds, int(cases), *ended) if _is_time(seconds, cases):
                    clock = ended[0] if ended and isinstance(ended[0], int | float) and _is_time(ended[0]) else None
                    self.times[rowid] = unit, float(seconds), cases, clock
                case None, (str(unit), int(case_id), bytes(stored), *_):
                    self.numbers[unit, case_id] = stored
                case None, (str(unit), str(status), int(case_id)) if status in _STATUSES:
                    self.known.add((unit, case_id))
        self.known |= set(self.numbers)
        if self.meta.get("numbers", (0, ""))[1] != LAYOUT:
            self.numbers = {}

    def records(self) -> Iterator[_Stored]:
        """Every record that can be read, in the order of the file."""
        for rowid, row in self._pages.rows():
            match rowid, row:
                case None, (str(unit), int(case_id), str(status), str(payload), *rest):
                    stored = rest[0] if rest and isinstance(rest[0], bytes) else None
                    yield _Stored(unit, case_id, status, payload, stored)

    def info(self, folder: Path) -> tuple[RunInfo, bytes]:
        """What the run is, from the journal or else from the description beside it, and what stands for it in seals.

        Where both can be read and differ, the one that a record's seal confirms.
        """
        texts: list[str | bytes] = [self.meta["info"][1]] if "info" in self.meta else []
        if (folder / DESCRIPTION).is_file():
            texts.append((folder / DESCRIPTION).read_bytes())
        readable: list[tuple[RunInfo, bytes]] = []
        for text in texts:
            try:
                info = msgspec.json.decode(text, type=RunInfo)
            except NOT_JSON:
                continue
            # run.json is the same text with other white space.
            readable.append(
                (info, of_description(text if isinstance(text, str) else msgspec.json.format(text, indent=-1)))
            )
        if not readable:
            raise RunError(
                f"{folder}: neither {DATABASE} nor {DESCRIPTION} tells what the run is; put its {DESCRIPTION} back, or "
                "run the command again with another --out"
            )
        first, last = readable[0], readable[-1]
        if first[1] != last[1] and not any(one.confirmed(first[1]) for one in self.records() if one.seal):
            return last if any(one.confirmed(last[1]) for one in self.records() if one.seal) else first
        return first

    def unsealed(self) -> bool:
        """Whether records without a seal are an earlier version's, and not damaged."""
        try:
            return Tally.read(self.meta[TALLY][1]).unsealed > 0
        except (KeyError, ValueError):
            return True

    def environments(self) -> list[dict[str, Any]]:
        try:
            return stored_environments(self.meta["environments"][1])
        except (KeyError, *NOT_JSON):
            return []


def _save(salvaged: _Salvaged, folder: Path, store: Store) -> list[Saved]:
    info, of = salvaged.info(folder)
    info = begin(store, info)
    for environment in salvaged.environments():
        store.add_environment(environment)
    units = {unit.name: unit for unit in info.plan.units}
    planned = {unit.name: {case for batch in info.batches(unit) for case in batch} for unit in info.plan.units}
    saved: dict[str, set[int]] = {name: set() for name in units}
    lost = {name: {case for unit, case in salvaged.known if unit == name} & planned[name] for name in units}
    unsealed = salvaged.unsealed()
    later = []
    for stored in salvaged.records():
        if stored.case_id not in planned.get(stored.unit, ()):
            continue
        kept = salvaged.numbers.get((stored.unit, stored.case_id))
        record = None
        if stored.seal is None and unsealed or stored.seal is not None and stored.confirmed(of):
            record = _whole(units[stored.unit], stored, kept if stored.seal is None else None, info)
        if record is None:
            lost[stored.unit].add(stored.case_id)
        elif record.status == "failed":
            later.append(
                (units[stored.unit], record, stored.seal is not None)
            )  # an unused page may hold it still, though it was tried again
        else:
            store.add(units[stored.unit], record, sealed=stored.seal is not None)
            saved[stored.unit].add(stored.case_id)
    for unit, record, sealed in later:
        store.add(unit, record, sealed=sealed)
        saved[unit.name].add(record.case_id)
    for _, (name, seconds, cases, ended) in sorted(salvaged.times.items()):
        if name in units:
            store.add_time(units[name], seconds, cases, ended)
    return [
        Saved(name, len(saved[name]), len(lost[name] - saved[name]), len(planned[name] - saved[name])) for name in units
    ]


def _whole(unit: Unit, kept: _Stored, stored: bytes | None, info: RunInfo) -> Record | None:
    """The record, if it can be one of the unit's and gives the `stored` numbers; None when a part of it is damaged."""
    try:
        content = {"case_id": kept.case_id, "status": kept.status, "payload": _PAYLOAD.decode(kept.payload)}
        record = msgspec.convert(content, Record)
        payload = record.payload
        if kept.status not in _STATUSES:
            return None
        if kept.status != "done":
            return record if isinstance(payload["reason"], str) else None
        numbers_X = case_numbers(unit, payload)
        if unit.does != "trace" and np.isnan(numbers_X).all():  # no numbers: not a score
            return None
        hashes = payload.get("hparams"), info.settings.get(unit.method, {}).get("hash")
        if unit.does == "edit" and None not in hashes and hashes[0] != hashes[1]:
            return None
        # Another machine's averages may differ in their last bits.
        if stored is not None and not np.allclose(
            from_bytes([stored])[0], numbers_X, rtol=1e-9, atol=0, equal_nan=True
        ):
            return None
    except MISFITS:
        return None
    return record


@contextmanager
def _settled(path: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """The journal and a file to work in; a copy of it, without what a killed process wrote of a transaction, if any.

    A rollback journal of another database is ignored.
    """
    with TemporaryDirectory(dir=out.parent, prefix=f"{out.name[:100]}-") as folder:
        scratch = Path(folder) / "pages"
        kept = path.with_name(path.name + "-journal")
        if not half_written(path) or not goes_with(kept, path):
            yield path, scratch
            return
        copy = Path(folder) / DATABASE
        for ending in ("", "-journal"):
            copyfile(path.with_name(path.name + ending), copy.with_name(copy.name + ending))
        connection = sqlite3.connect(copy)
        try:
            connection.execute("select count(*) from sqlite_master").fetchall()
        except sqlite3.DatabaseError:
            pass  # too damaged for SQLite: its pages are read as they are
        finally:
            connection.close()
        yield copy, scratch
