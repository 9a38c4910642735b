"""Run a plan: every unit's cases in fixed batches, each case committed as soon as it is there.

Covers resuming, interruption, reports on the way, and the check that no weight changed. What a record holds is
local.py's, where it is kept store.py's, on which machines it is computed the engine's (engine.py).
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
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
from artifact.runs.engine import Engine
from artifact.runs.journal import DATABASE, journal_file
from artifact.runs.local import Local
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare, run_model
from artifact.runs.status import commonest_reason
from artifact.runs.stop import Stop, stopping
from artifact.runs.store import Store, begin, reading, writing
from artifact.runs.took import measured

SECONDS_BETWEEN_REPORTS = 60.0
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

    `report` is called after a unit, at most once a minute; when it fails, that is said and the run goes on. With
    `retry_failed` the cases that failed are computed again, and what comes out replaces them. Cases that do not fit the
    device are said and not stored. A stop lets batches in hand be finished; loading and reports, of which nothing is
    stored, end at once. Raises Interrupted when stopped on request, and RunError when the folder is another run's or
    cannot be written.
    """
    begun = None if out is None else _begun(out)
    model, why = run_model(plan, asked.model, show.say, None if begun is None else begun.model)
    folder = out or Path("results") / run_name(plan, model, asked, narrowing)
    asked = replace(asked, model=model, model_reason=why)
    with measured() as took:
        working = engine(plan, asked, show.say, begun or _begun(folder))
    show.say(took.words)
    with closing(working):
        show.say(f"data: {working.info.data_source}, {len(working.info.cases)} facts; run folder {folder}")
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
    """Every unit's part of every round, with reports on the way; KeyboardInterrupt after a stop."""
    reported = time.monotonic()
    for number, unit in product(range(info.plan.rounds), info.plan.units):
        part = info.plan.part(unit, info.batches(unit), number)
        if not part and info.plan.rounds > 1:
            continue
        with stopping() as stop:
            _run_unit(store, unit, part, engine, stop, show, retry_failed)
        if stop.asked:
            raise KeyboardInterrupt
        if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
            _report(report, store, show)
            reported = time.monotonic()


def _report(report: Callable[[Store], object], store: Store, show: Display) -> None:
    """A report on the way, which must not end a run of days."""
    try:
        report(store)
    except Exception as error:
        show.say(f"no report this time ({reason(error)}); the run goes on")


def _run_unit(
    store: Store,
    unit: Unit,
    batches: Sequence[tuple[int, ...]],
    engine: Engine,
    stop: Stop,
    show: Display,
    retry_failed: bool,
) -> None:
    part = {case_id for batch in batches for case_id in batch}
    unfinished = [record for record in store.unfinished(unit) if record.case_id in part]
    retried = {record.case_id for record in unfinished if record.status == "failed"} if retry_failed else set()
    done = store.done(unit) - retried
    left = [batch for batch in batches if not all(case_id in done for case_id in batch)]
    again = {case_id for batch in left for case_id in batch}
    bar, cases = show.bar(unit.name, ends=True), len(part)
    counts: Counter[str] = Counter(record.status for record in unfinished if record.case_id not in again)
    counts["there"] = cases - len(again)
    _show(bar, cases, counts)
    undone: list[Record] = []
    with closing(engine.compute(unit, left, stop)) as results:
        for computed in results:
            store.add_environment(computed.environment)
            undone += [record for record in computed.records if record.status == "undone"]
            for record in computed.records:
                if record.status != "undone":
                    store.add(unit, record, over_failed=record.case_id in retried)
            store.add_time(unit, computed.seconds, len(computed.records))
            counts.update(record.status for record in computed.records)
            counts["there"] += sum(record.status != "undone" for record in computed.records)
            _show(bar, cases, counts)
    if undone:
        show.say(f"{unit.name}: {len(undone)} cases cannot be computed here and are left undone: {undone[0].reason}")
    if (counts["failed"] or counts["excluded"]) and (said := commonest_reason(store, unit)):
        show.say(f"{unit.name}: {said}")


def _show(bar: Bar, cases: int, counts: Counter[str]) -> None:
    """So many of a unit's cases have a record (`there`), of which some failed or do not count."""
    parts = [f"{counts[status]} {status}" for status in ("failed", "excluded") if counts[status]]
    words = f"{counts['there']}/{cases} cases" + (f" ({', '.join(parts)})" if parts else "")
    bar.at(counts["there"], cases, lambda rate: words)


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
