"""Where a run stands, from its journal and its lock alone, while another process works on it or when none does.

Covers what is done and left of each unit, the seconds of a case, and the time that is left. A unit that has not begun
is estimated from similar units: edits by the same method, traces of the same kind. Seconds are those of the work
itself: on a cluster several cases are computed at once, and the run ends sooner. No torch.
"""

import shlex
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from artifact.editing.protocol import protocol_words
from artifact.io import NOT_JSON
from artifact.plans.unit import Unit
from artifact.runs.describe import RunInfo
from artifact.runs.journal import DATABASE, DESCRIPTION
from artifact.runs.lock import holder
from artifact.runs.record import Record
from artifact.runs.store import Store
from artifact.sizes import count_of


@dataclass(frozen=True)
class UnitStatus:
    """Cases of a unit by state; `seconds` is what one takes, None until it or a similar unit has times.

    `own` is False where the seconds are those of similar units.
    """

    unit: str
    done: int
    left: int
    failed: int
    excluded: int
    seconds: float | None
    own: bool

    @property
    def time_left(self) -> float | None:
        """Seconds of work that are left; None when unknown."""
        if self.left == 0:
            return 0.0
        return None if self.seconds is None else self.left * self.seconds


@dataclass(frozen=True)
class RunStatus:
    """A run's units, who works on it (None: nobody), and when its newest batch was stored (Unix time)."""

    folder: Path
    info: RunInfo
    holder: str | None
    stored: float | None
    units: tuple[UnitStatus, ...]


def run_status(store: Store) -> RunStatus:
    """Where a run stands now."""
    info, counts = store.info(), store.counts()
    spent = {unit: (seconds, cases) for unit, seconds, cases in store.times()}
    units = []
    for unit in info.plan.units:
        planned = {case for batch in info.batches(unit) for case in batch}
        states = counts.get(unit.name, Counter())
        own = _seconds([unit], spent)
        similar = [one for one in info.plan.units if _sort_of(one) == _sort_of(unit)]
        units.append(
            UnitStatus(
                unit=unit.name,
                done=states.get("done", 0),
                left=len(planned - store.done(unit)),
                failed=states.get("failed", 0),
                excluded=states.get("excluded", 0),
                seconds=_seconds(similar, spent) if own is None else own,
                own=own is not None,
            )
        )
    return RunStatus(store.folder, info, holder(store.folder), store.last_time(), tuple(units))


def commonest_reason(unfinished: Sequence[Record]) -> str:
    """The reason for which most of these cases failed, else were excluded, with their number; empty without any."""
    for state in ("failed", "excluded"):
        # The case's own number would tell every reason from every other.
        reasons = Counter(
            record.reason.removeprefix(f"case {record.case_id}: ") for record in unfinished if record.status == state
        )
        if reasons:
            text, count = reasons.most_common(1)[0]
            return f"{count} {state}: {' '.join(text.split())[:200]}"
    return ""


def not_computed(stores: Sequence[Store], packed: bool = False) -> str:
    """One line on the cases of all runs that failed or were excluded, and on units of which none is done; or empty.

    `packed`: the stores are of a pack, whose folder will be gone.
    """
    cases: Counter[str] = Counter()
    for store in stores:
        for counts in store.counts().values():
            cases.update(counts)
    if not cases["failed"] and not cases["excluded"]:
        return ""
    line = f"not computed: {cases['failed']} of {cases.total()} cases failed, {cases['excluded']} are excluded"
    if units := failed_units(stores):
        line += f"; no case of {', '.join(units)} could be computed"
    folder = stores[0].folder if len(stores) == 1 else stores[0].folder.parent
    return f"{line}; kloc status {'on the unpacked folder' if packed else folder} lists the reasons"


def left_line(stores: Sequence[Store]) -> str:
    """One line on the cases that a run came to and left undone, since the device does not hold them; or empty."""
    left = [unit for store in stores for unit in run_status(store).units if unit.left]
    if not left:
        return ""
    return (
        f"not finished: {sum(unit.left for unit in left)} cases of {', '.join(unit.unit for unit in left)} are left "
        "undone; take a larger device, or give other --memory, and run the same command again"
    )


def copy_line(store: Store) -> str:
    """One line where run.json is not what the journal says; it is a copy for people, and the journal counts."""
    path = store.folder / DESCRIPTION
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            said = "is not a regular file"
        elif msgspec.json.decode(path.read_bytes(), type=RunInfo) == store.info():
            return ""
        else:
            said = "tells of another run"
    except FileNotFoundError:
        said = "is missing"
    except (OSError, *NOT_JSON):
        said = "cannot be read"
    return f"{path}: {said}; the journal counts, and the run's command writes the file anew"


def damage_line(stores: Sequence[Store]) -> str:
    """What is damaged in the runs' journals, in one line with the remedy; empty where nothing is."""
    return "; ".join(
        f"{store.folder / DATABASE}: {said}; save the rest with: kloc recover {shlex.quote(str(store.folder))} "
        "--out NEW"
        for store in stores
        if (said := store.checked().damage)
    )


def failed_units(stores: Sequence[Store]) -> list[str]:
    """Units that have failed cases and no finished one."""
    return [
        unit for store in stores for unit, counts in store.counts().items() if counts["failed"] and not counts["done"]
    ]


def status_lines(run: RunStatus, now: float) -> list[str]:
    """A run's state in words: who and when, a line a unit, and the sum; `now` is the clock's seconds since 1970."""
    info = run.info
    head = f"{run.folder}: {info.plan.name} on {info.model}, protocol {protocol_words(info.protocol, info.switches)}"
    if info.shard is not None:
        head += ", part {} of {}".format(*info.shard)
    who = f"{run.holder} is working on it" if run.holder else "nobody is working on it"
    lines = [f"{head}; {who}", *_stored(run.stored, now)]
    table: list[tuple[str, ...]] = [("unit", "done", "left", "failed", "excluded", "s/case", "time left")]
    table += [
        (
            one.unit,
            *(str(n) for n in (one.done, one.left, one.failed, one.excluded)),
            "" if one.seconds is None else f"{'' if one.own else '~'}{one.seconds:.3g}",
            "" if one.left == 0 else _duration(one.time_left, one.own),
        )
        for one in run.units
    ]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for name, *numbers in table:
        cells = [name.ljust(widths[0]), *(text.rjust(n) for text, n in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [*lines, total_line([run])]


def total_line(runs: Sequence[RunStatus]) -> str:
    """How many cases of all runs are left, and how long they take."""
    units = [unit for run in runs for unit in run.units]
    left, kept = sum(unit.left for unit in units), sum(unit.done + unit.failed + unit.excluded for unit in units)
    if left == 0:
        return f"in all: {kept} cases, none left"
    unknown = [unit for unit in units if unit.time_left is None]
    known = sum(unit.time_left or 0.0 for unit in units)
    own = all(unit.own for unit in units if unit.left)
    line = f"in all: {kept} cases, {left} left, "
    if not unknown:
        return line + _duration(known, own)
    names = count_of(len(unknown), "unit")
    return line + (f"{_duration(known, own)} and {names} of unknown length" if known else "for an unknown time")


def _sort_of(unit: Unit) -> tuple[str, str]:
    of = {"edit": unit.method, "trace": unit.trace_kind.name, "task": unit.task}
    return unit.does, of.get(unit.does, "")


def _seconds(units: Sequence[Unit], spent: Mapping[str, tuple[float, int]]) -> float | None:
    """Seconds a case over all that worked on some units."""
    times = [spent[unit.name] for unit in units if unit.name in spent]
    cases = sum(cases for _, cases in times)
    return sum(seconds for seconds, _ in times) / cases if cases else None


def _stored(stored: float | None, now: float) -> list[str]:
    if stored is None:
        return []
    when = f"newest batch stored {_clock(stored)}"
    if stored > now:
        return [f"{when}, after what the clock says now, {_clock(now)}"]
    return [f"{when}, {_duration(now - stored, True)} ago"]


def _clock(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def _duration(seconds: float | None, exact: bool) -> str:
    """Seconds in the two largest units that count, such as 3 d 4 h."""
    if seconds is None:
        return "unknown"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 1:
        text = "<1 s"
    elif seconds < 90:
        text = f"{seconds:.0f} s"
    elif minutes < 90:
        text = f"{minutes} min"
    elif hours < 48:
        text = f"{minutes // 60} h {minutes % 60:02} min"
    else:
        text = f"{hours // 24} d {hours % 24} h"
    return text if exact else f"~{text}"
