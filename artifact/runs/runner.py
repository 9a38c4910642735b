"""Run a plan: every unit's cases in fixed batches, each case committed as soon as it is there.

Covers resuming, interruption and the check that no weight changed. What a record holds is local.py's, where it is kept
store.py's.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from artifact.errors import Interrupted, RunError
from artifact.facts.fact import Fact
from artifact.plan import Plan, Unit
from artifact.runs.editors import Given
from artifact.runs.environment import environment
from artifact.runs.local import compute
from artifact.runs.progress import Display
from artifact.runs.setup import Context, prepare
from artifact.runs.stop import Stop, stopping
from artifact.runs.store import Store, begin, reading, writing


def run_plan(
    plan: Plan,
    *,
    model: str,
    protocol: str,
    show: Display,
    limit: int | None = None,
    out: Path | None = None,
    memory: str | None = None,
    given: Given | None = None,
) -> Path:
    """Run or resume `plan`; returns the run's folder.

    Raises Interrupted when stopped on request, and RunError when the folder is another run's or cannot be written.
    """
    begun_with = _model_of(out) if out is not None else None
    with stopping() as stop:
        context, info = prepare(plan, model, protocol, limit, show.say, begun_with, memory, given)
        folder = out or Path("results") / _run_name(plan, context)
        show.say(f"data: {info.data_source}, {len(context.data.facts)} facts; run folder {folder}")
        with writing(folder) as store:
            info = begin(store, info)
            store.write_description()
            store.add_environment(environment(info.device))
            try:
                for unit in info.plan.units:
                    _run_unit(store, unit, _cases(unit, context.data.facts, limit), context, stop, show)
            except KeyboardInterrupt:
                stop.asked = True
            if stop.asked:
                raise Interrupted(f"stopped; {folder} keeps all that was done, and the same command goes on from there")
            if context.model.weights_hash() != info.weights_sha256:
                raise RunError(f"{folder}: the model's weights changed during the run; discard it and report a defect")
            return folder


def _run_unit(store: Store, unit: Unit, facts: Sequence[Fact], context: Context, stop: Stop, show: Display) -> None:
    done = store.done(unit)
    bar = show.bar(unit.name, len(facts))
    for start in range(0, len(facts), unit.batch):
        batch = facts[start : start + unit.batch]
        if not all(fact.case_id in done for fact in batch):
            began = time.perf_counter()
            records = compute(unit, batch, context)
            for record in records:
                store.add(unit, record)
            store.add_time(unit, time.perf_counter() - began, len(batch))
        bar.advance(len(batch))
        if stop.asked:
            return


def _cases(unit: Unit, facts: Sequence[Fact], limit: int | None) -> Sequence[Fact]:
    """The first facts by case id, as many as the unit and the user's limit allow."""
    most = min((n for n in (unit.most, limit) if n is not None), default=None)
    return sorted(facts, key=lambda fact: fact.case_id)[:most]


def _run_name(plan: Plan, context: Context) -> str:
    suffix = "" if context.protocol.name == "released" else f"-{context.protocol.name}"
    return f"{plan.name}-{Path(context.model.name).name}{suffix}"


def _model_of(folder: Path) -> str | None:
    """The model of a run that is there already, so that `auto` resumes what it began."""
    try:
        with reading(folder) as store:
            return store.info().model
    except RunError:
        return None
