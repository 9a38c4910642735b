"""Run a plan: every unit's cases in fixed batches, each case committed as soon as it is there.

Covers resuming, interruption, reports on the way, and the check that no weight changed. What a record holds is
local.py's, where it is kept store.py's, on which machines it is computed the engine's (engine.py).
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from artifact.editing.protocol import protocol_part
from artifact.errors import Interrupted, NotBegun, RunError
from artifact.plan import Plan, Unit
from artifact.runs.engine import Engine
from artifact.runs.journal import DATABASE
from artifact.runs.local import Local
from artifact.runs.progress import Display
from artifact.runs.setup import Asked, prepare
from artifact.runs.status import commonest_reason
from artifact.runs.stop import Stop, stopping
from artifact.runs.store import Store, begin, reading, writing

SECONDS_BETWEEN_REPORTS = 60.0
MakeEngine = Callable[[Plan, Asked, Callable[[str], None], str | None], Engine]


def local_engine(plan: Plan, asked: Asked, say: Callable[[str], None], begun_with: str | None) -> Engine:
    """The engine of this process, ready to compute."""
    return Local(*prepare(plan, asked, say, begun_with))


def run_plan(
    plan: Plan,
    asked: Asked,
    *,
    show: Display,
    out: Path | None = None,
    narrowing: Sequence[str] = (),
    engine: MakeEngine = local_engine,
    report: Callable[[Store], object] = lambda store: None,
) -> Path:
    """Run or resume `plan`; returns the run's folder.

    `report` is called after a unit, at most once a minute. Raises Interrupted when stopped on request, and RunError
    when the folder is another run's or cannot be written.
    """
    begun_with = _model_of(out) if out is not None else None
    with stopping() as stop, closing(engine(plan, asked, show.say, begun_with)) as working:
        folder = out or Path("results") / run_name(plan, working.info.model, asked, narrowing)
        show.say(f"data: {working.info.data_source}, {len(working.info.cases)} facts; run folder {folder}")
        if (traced := working.info.traced) is not None and traced.sha256 != working.info.data_sha256:
            show.say(f"traced: {traced.source}, {len(traced.cases)} statements")
        with writing(folder) as store:
            info = begin(store, working.info)
            store.write_description()
            reported = time.monotonic()
            try:
                for unit in info.plan.units:
                    _run_unit(store, unit, info.batches(unit), working, stop, show)
                    if stop.asked:
                        break
                    if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                        report(store)
                        reported = time.monotonic()
            except KeyboardInterrupt:
                stop.asked = True
            if stop.asked:
                raise Interrupted(f"stopped; {folder} keeps all that was done, and the same command goes on from there")
            if working.weights_hash() != info.weights_sha256:
                raise RunError(f"{folder}: the model's weights changed during the run; discard it and report a defect")
            return folder


def _run_unit(
    store: Store, unit: Unit, batches: list[tuple[int, ...]], engine: Engine, stop: Stop, show: Display
) -> None:
    done = store.done(unit)
    left = [batch for batch in batches if not all(case_id in done for case_id in batch)]
    bar = show.bar(unit.name, sum(map(len, batches)))
    again = {case_id for batch in left for case_id in batch}
    before = Counter(record.status for record in store.unfinished(unit) if record.case_id not in again)
    bar.advance(sum(map(len, batches)) - len(again), before["failed"], before["excluded"])
    with closing(engine.compute(unit, left, stop)) as results:
        for computed in results:
            store.add_environment(computed.environment)
            for record in computed.records:
                store.add(unit, record)
            store.add_time(unit, computed.seconds, len(computed.records))
            states = Counter(record.status for record in computed.records)
            bar.advance(len(computed.records), states["failed"], states["excluded"])
    if reason := commonest_reason(store, unit):
        show.say(f"{unit.name}: {reason}")


def run_name(plan: Plan, model: str, asked: Asked, narrowing: Sequence[str] = ()) -> str:
    """A run's folder below results/: the plan, the model where the plan does not say it, and what sets it apart.

    `narrowing` are the tables, figures and methods that the plan was narrowed to.
    """
    parts = [plan.name, *([] if plan.models == (model,) else [Path(model).name]), *narrowing]
    if asked.protocol != "released":
        parts.append(asked.protocol)
    if asked.correct:
        parts.append(protocol_part(asked.correct))
    if asked.shard is not None:
        parts.append("{}of{}".format(*asked.shard))
    return "-".join(parts)


def _model_of(folder: Path) -> str | None:
    """The model of a run that is there already, so that `auto` resumes what it began; RunError when it is damaged."""
    if not (folder / DATABASE).is_file():
        return None
    try:
        with reading(folder) as store:
            return store.info().model
    except NotBegun:
        return None
