"""Put the parts of one run together, as `--shard` made them on several machines, into a run like any other.

Covers which runs are parts of one, folders of several runs, times and environments. The parts stay as they are, and
records without a checksum get none. The run's own command in the new folder computes the missing cases (runner.py).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import msgspec

from artifact.errors import RunError, SettingError
from artifact.runs.describe import RunInfo, described, first_difference
from artifact.runs.journal import run_folders
from artifact.runs.lock import refuse_existing
from artifact.runs.store import Store, begin, reading, writing_new

_MAY_DIFFER = ("model_reason", "given", "shard", "file_notes", "memory")
"""Words, paths and budgets, which differ from machine to machine; what is read from paths is compared by its hash."""


@dataclass(frozen=True)
class Merged:
    """What a merged run holds: its cases, of all that the run takes, and how many of how many parts were given.

    `parts` is None where the given runs are not all cut into the same number of parts.
    """

    folder: Path
    cases: int
    planned: int
    parts: tuple[int, int] | None


def merge(folders: Sequence[Path], out: Path) -> list[Merged]:
    """Write all records of the runs in `folders` into a new run in `out`, in one transaction.

    Folders of several runs, one a model, are put together run by run, under the same names. Raises RunError when two
    parts hold the same case, when one is another run's, and when `out` is there already or cannot be written;
    SettingError without folders.
    """
    if not folders:
        raise SettingError("merge needs the folders of a run's parts and got none; name them")
    refuse_existing(out)
    with ExitStack() as stack:
        parts: dict[Path, list[Store]] = {}
        for folder in folders:
            for run in run_folders(folder):
                parts.setdefault(run.relative_to(folder), []).append(stack.enter_context(reading(run)))
        if len(parts) > 1 and Path() in parts:
            given = " ".join(str(folder) for folder in folders)
            raise RunError(f"{given}: some are runs and some are folders of runs; merge parts of one kind")
        wholes = {name: _whole(stores) for name, stores in parts.items()}
        with ExitStack() as undone:  # all runs are written, or none
            written = []
            for name, stores in parts.items():
                written.append(_write(stores, wholes[name], out / name))
                undone.callback(rmtree, out / name, ignore_errors=True)
            undone.pop_all()
        return written


def _whole(parts: Sequence[Store]) -> RunInfo:
    """What the run is that these are parts of."""
    whole = msgspec.structs.replace(parts[0].info(), shard=None)
    for part in parts[1:]:
        difference = first_difference(described(whole), described(part.info()), _MAY_DIFFER)
        if difference is not None:
            name, there, here = difference
            raise RunError(
                f"{part.folder}: is not a part of the run in {parts[0].folder}: it was made with another {name} "
                f"({here}, there {there}); merge parts of one run"
            )
    for part in parts:
        part.refuse_damage()
    _refuse_overlap(parts, whole)
    return whole


def _refuse_overlap(parts: Sequence[Store], whole: RunInfo) -> None:
    for unit in whole.plan.units:
        held: dict[int, Path] = {}
        for part in parts:
            for case_id in part.done(unit):
                if case_id in held:
                    raise RunError(
                        f"{part.folder}: holds case {case_id} of {unit.name}, and so does {held[case_id]}; give each "
                        "part once"
                    )
                held[case_id] = part.folder


def _write(parts: Sequence[Store], whole: RunInfo, out: Path) -> Merged:
    cases = 0
    with writing_new(out) as store:
        with store.together():
            begin(store, whole)
            for part in parts:
                for environment in part.environments():
                    store.add_environment(environment)
                for unit in whole.plan.units:
                    unsealed = part.unsealed(unit)
                    for record in part.records(unit):
                        store.add(unit, record, sealed=record.case_id not in unsealed)
                        cases += 1
            units = {unit.name: unit for unit in whole.plan.units}
            times = [row for part in parts for row in part.timed() if row[0] in units]  # no seal confirms a time
            for name, seconds, timed, ended in sorted(times, key=lambda row: row[-1] or 0.0):
                store.add_time(units[name], seconds, timed, ended)
        store.write_description()
    planned = sum(len(batch) for unit in whole.plan.units for batch in whole.batches(unit))
    return Merged(out, cases, planned, _counted(parts))


def _counted(parts: Sequence[Store]) -> tuple[int, int] | None:
    shards = {part.info().shard for part in parts}
    counts = {shard[1] if shard else 0 for shard in shards}
    return (len(shards), counts.pop()) if len(counts) == 1 and 0 not in counts else None
