"""Run a plan: every unit's cases in fixed batches, each case committed as soon as it is there.

Covers resuming, interruption, reports on the way, and the check that no weight changed. What a record holds is
local.py's, where it is kept store.py's, on which machines it is computed the engine's (engine.py).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

from artifact.editing.protocol import protocol_part
from artifact.errors import Interrupted, NotBegun, RunError
from artifact.io import reason
from artifact.plans.unit import Plan, Unit
from artifact.progress import Bar, Display
from artifact.runs.describe import RunInfo
from artifact.runs.engine import Batch, Computed, Engine
from artifact.runs.journal import DATABASE, journal_file
from artifact.runs.local import Local
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare, run_model
from artifact.runs.status import commonest_reason
from artifact.runs.stop import stopping
from artifact.runs.store import Store, begin, reading, writing
from artifact.runs.took import measured
from artifact.sizes import count_of

SECONDS_BETWEEN_REPORTS = 60.0
REPORTS_COST = 20
"""A report waits for so many times what the last one took: they take at most a twentieth of a run."""
MakeEngine = Callable[[Plan, Asked, Callable[[str], None], RunInfo | None], Engine]


def local_engine(plan: Plan, asked: Asked, say: Callable[[str], None], begun: RunInfo | None) -> Engine:
    """The engine of this process, ready to compute."""
    return Local(*prepare(plan, asked, say, begun))


def run_plan(
    plan: Plan,
    asked: Asked,
    *,
    show: Display,
    out: Path | None = None,
    narrowing: Sequence[str] = (),
    engine: MakeEngine = local_engine,
    report: Callable[[Store], object] = lambda store: None,
    retry_failed: bool = False,
) -> Path:
    """Run or resume `plan`; returns the run's folder.

    `report` is called after a unit, at most once a minute and for a twentieth of the time; when it fails, that is said
    and the run goes on. With `retry_failed` the cases that failed are computed again, and what comes out replaces them.
    Cases that do not fit the device are said and not stored. A stop lets batches in hand be finished; loading and
    reports, of which nothing is stored, end at once. Raises Interrupted when stopped on request, and RunError when the
    folder is another run's or cannot be written.
    """
    begun = None if out is None else _begun(out)
    model, why = run_model(plan, asked.model, show.say, None if begun is None else begun.model)
    folder = out or Path("results") / run_name(plan, model, asked, narrowing)
    asked = replace(asked, model=model, model_reason=why)
    with measured() as took:
        working = engine(plan, asked, show.say, begun or _begun(folder))
    show.say(took.words)
    with closing(working):
        show.say(f"data: {working.info.data_source}, {count_of(len(working.info.cases), 'fact')}; run folder {folder}")
        if (traced := working.info.traced) is not None and traced.sha256 != working.info.data_sha256:
            show.say(f"traced: {traced.source}, {len(traced.cases)} statements")
        with writing(folder) as store:
            info = begin(store, working.info)
            if store.missed:
                show.say(f"{store.missed} records are missing from the journal and are computed again")
            store.write_description()
            try:
                _run_units(store, info, working, show, report, retry_failed)
            except KeyboardInterrupt:
                kept = f"{folder} keeps all that was done, and the same command goes on from there"
                raise Interrupted(f"stopped; {kept}") from None
            if working.weights_hash() != info.weights_sha256:
                raise RunError(f"{folder}: the model's weights changed during the run; discard it and report a defect")
            return folder


def _run_units(
    store: Store,
    info: RunInfo,
    engine: Engine,
    show: Display,
    report: Callable[[Store], object],
    retry_failed: bool,
) -> None:
    """Every unit's part of every round, with reports on the way; KeyboardInterrupt after a stop.

    The engine gets all batches at once: a worker takes the next one without waiting for another's, whatever unit it is
    of.
    """
    plan, parts = info.plan, list[_Part]()
    for number, unit in product(range(plan.rounds), plan.units):
        batches = plan.part(unit, info.batches(unit), number)
        if batches or plan.rounds == 1:
            parts.append(_Part(store, unit, batches, show, retry_failed))
    of = {batch: part for part in parts for batch in part.left}
    later, due = iter(parts), time.monotonic() + SECONDS_BETWEEN_REPORTS
    with stopping() as stop, closing(engine.compute(list(of), stop)) as results:
        _begin(later)
        for computed in results:
            part = of[computed.batch]
            while not part.begun:
                _begin(later)
            part.add(computed)
            if not part.over:
                continue
            part.end()
            if (began := time.monotonic()) > due:
                with stop.idle():
                    _report(report, store, show)
                due = next_report(began, time.monotonic())
            _begin(later)
    if stop.asked:
        raise KeyboardInterrupt


def next_report(began: float, ended: float) -> float:
    """When the next report is due, by the clock that says when the last one began and ended (seconds)."""
    return ended + max(SECONDS_BETWEEN_REPORTS, REPORTS_COST * (ended - began))


def _report(report: Callable[[Store], object], store: Store, show: Display) -> None:
    """A report on the way, which must not end a run of days."""
    try:
        report(store)
    except Exception as error:
        show.say(f"no report this time ({reason(error)}); the run goes on")


class _Part:
    """A unit's part of a round: what is left of it, and what came."""

    def __init__(
        self, store: Store, unit: Unit, batches: Sequence[tuple[int, ...]], show: Display, retry_failed: bool
    ) -> None:
        self._store, self._unit, self._show = store, unit, show
        self._cases = {case_id for batch in batches for case_id in batch}
        unfinished = self._unfinished()
        self._retried = {record.case_id for record in unfinished if record.status == "failed"} if retry_failed else ()
        done = store.done(unit).difference(self._retried)
        self.left = [Batch(unit, batch) for batch in batches if not all(case_id in done for case_id in batch)]
        again = {case_id for batch in self.left for case_id in batch.cases}
        self._came, self._undone = 0, list[Record]()
        self._counts: Counter[str] = Counter(one.status for one in unfinished if one.case_id not in again)
        self._counts["there"] = len(self._cases) - len(again)
        self._bar: Bar | None = None

    @property
    def begun(self) -> bool:
        """Whether its bar is there."""
        return self._bar is not None

    @property
    def over(self) -> bool:
        """Whether all of its batches have come."""
        return self._came == len(self.left)

    def begin(self) -> None:
        """Show its bar."""
        self._bar = self._show.bar(self._unit.name, ends=True)
        self._at()

    def add(self, computed: Computed) -> None:
        """Store a batch's records."""
        self._came += 1
        self._store.add_environment(computed.environment)
        self._undone += [record for record in computed.records if record.status == "undone"]
        for record in computed.records:
            if record.status != "undone":
                self._store.add(self._unit, record, over_failed=record.case_id in self._retried)
        self._store.add_time(self._unit, computed.seconds, len(computed.records))
        self._counts.update(record.status for record in computed.records)
        self._counts["there"] += sum(record.status != "undone" for record in computed.records)
        self._at()

    def end(self) -> None:
        """Say why cases of it are not there or do not count."""
        name, undone = self._unit.name, self._undone
        if undone:
            self._show.say(
                f"{name}: {len(undone)} cases cannot be computed here and are left undone: {undone[0].reason}"
            )
        if said := commonest_reason(self._unfinished()):
            self._show.say(f"{name}: {said}")

    def _unfinished(self) -> list[Record]:
        """The stored records that have no numbers."""
        return [record for record in self._store.unfinished(self._unit) if record.case_id in self._cases]

    def _at(self) -> None:
        """So many of the cases have a record (`there`), of which some failed or do not count."""
        counts = self._counts
        parts = [f"{counts[status]} {status}" for status in ("failed", "excluded") if counts[status]]
        words = f"{counts['there']}/{len(self._cases)} cases" + (f" ({', '.join(parts)})" if parts else "")
        assert self._bar is not None
        self._bar.at(counts["there"], len(self._cases), lambda rate: words)


def _begin(later: Iterator[_Part]) -> None:
    """Begin the next of these that has batches left, and all before it."""
    for part in later:
        part.begin()
        if part.left:
            return
        part.end()


def run_name(plan: Plan, model: str, asked: Asked, narrowing: Sequence[str] = ()) -> str:
    """A run's folder below results/: the plan, the model where the plan does not say it, and what sets it apart.

    `narrowing` are the tables, figures and methods that the plan was narrowed to.
    """
    parts = [plan.name, *([] if plan.models == (model,) else [Path(model).name]), *narrowing]
    if asked.protocol != "released":
        parts.append(asked.protocol)
    if asked.correct:
        parts.append(protocol_part(asked.correct))
    if asked.dtype != "float32":
        parts.append(asked.dtype)
    if asked.given.seed is not None:
        parts.append(f"seed{asked.given.seed}")
    if asked.shard is not None:
        parts.append("{}of{}".format(*asked.shard))
    return "-".join(parts)


def _begun(folder: Path) -> RunInfo | None:
    """The run in the folder, which goes on with the settings it began with; RunError when it is damaged."""
    if not journal_file(folder / DATABASE):
        return None
    try:
        with reading(folder) as store:
            return store.info()
    except NotBegun:
        return None
