"""The local engine: the records of one batch of cases of one unit, computed in this process.

Covers what each kind of unit does to a case. runner.py stores the records.
"""

import time
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from pkgutil import resolve_name
from typing import Any

import msgspec

from artifact.editing.edit import Edit, Edited
from artifact.editing.hparams import hparams_hash
from artifact.editing.methods import METHODS
from artifact.errors import ArtifactError, DeviceError, EditError
from artifact.evaluation.further import further_json, further_scores
from artifact.evaluation.metrics import CaseScore
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, Statement
from artifact.facts.odd import OddRecord
from artifact.lm.device import batches
from artifact.plans.tasks import TASKS
from artifact.plans.unit import Unit
from artifact.runs.answered import failed, unanswered
from artifact.runs.context import SAMPLES, Context
from artifact.runs.controls import controlled_editor, controlled_edits
from artifact.runs.describe import RunInfo
from artifact.runs.engine import Batch, Computed
from artifact.runs.environment import environment
from artifact.runs.record import Record
from artifact.runs.rehearsed import REHEARSED, rehearsed_seconds
from artifact.tracing.edges import EDGES
from artifact.tracing.knockout import Knockout, knockout_all
from artifact.tracing.trace import Trace, TraceSettings, trace_all

Item = Fact | Statement | OddRecord


class Local:
    """The engine that computes in this process."""

    def __init__(self, context: Context, info: RunInfo) -> None:
        self.info = info
        self._context = context
        here = environment(info.device)
        rehearsed = rehearsed_seconds(info, here)
        own = {"memory": info.memory}  # which may be another than the run began with
        self._environment = here | own | ({} if rehearsed is None else {REHEARSED: rehearsed})

    def compute(
        self, batches: Sequence[Batch], stop: Callable[[], bool] = lambda: False
    ) -> Generator[Computed, None, None]:
        """The records of each batch, one batch after the other."""
        for unit, of_unit in groupby(batches, lambda batch: batch.unit):
            items = {item.case_id: item for item in self._context.items(unit)}
            for batch in of_unit:
                if stop():
                    return
                began = time.perf_counter()
                records = compute(unit, [items[case_id] for case_id in batch.cases], self._context)
                yield Computed(batch, records, time.perf_counter() - began, self._environment)

    def weights_hash(self) -> str:
        return self._context.model.weights_hash()

    def close(self) -> None:
        """Nothing is held but memory."""


def compute(unit: Unit, items: Sequence[Item], context: Context) -> list[Record]:
    """One record an item (a fact to edit or score, a statement to trace), in order.

    One that cannot be computed gives a failed record with its reason, after one more try alone: when a batch fails as a
    whole, or a case in it, one bad case costs only itself. Where the device's memory does not hold all of them, they
    are computed half at a time, and one that it does not hold alone is undone: another device can compute it. Of a task
    whose facts are computed together (Task.whole) nothing is tried in parts.
    """

    def alone(part: Sequence[Item]) -> list[Record]:
        without = "does not fit the device's memory; take a larger device"
        return [Record(item.case_id, "undone", {"reason": f"case {item.case_id}: {without}"}) for item in part]

    left_out = {item.case_id: record for item in items if (record := _without(item, context)) is not None}
    usable = [item for item in items if item.case_id not in left_out]
    parts = batches(
        [usable] if _whole(unit) and usable else [[item] for item in usable],
        len,
        lambda parts: _compute(unit, [item for part in parts for item in part], context),
        context.memory,
        alone,
    )
    by_case = {record.case_id: record for _, records in parts for record in records}
    by_case |= left_out
    return [by_case[item.case_id] for item in items]


def _whole(unit: Unit) -> bool:
    """Whether the facts of a batch are computed together or not at all."""
    return unit.does == "task" and TASKS[unit.task].whole


def _without(item: Item, context: Context) -> Record | None:
    """The record of a case that is not even tried: an odd one, or one that the model cannot be asked."""
    if isinstance(item, OddRecord):
        return Record(item.case_id, "failed", {"reason": item.reason})
    if isinstance(item, Fact) and item.case_id in context.unaskable:
        return Record(item.case_id, "excluded", {"reason": context.unaskable[item.case_id]})
    return None


def _compute(unit: Unit, items: Sequence[Item], context: Context) -> list[Record]:
    try:
        records = _COMPUTE[unit.does](unit, items, context)
    except DeviceError:
        raise  # it holds for every case
    except ArtifactError as error:
        if len(items) == 1 or _whole(unit):
            return [failed(item.case_id, error) for item in items]
        return [record for item in items for record in _compute(unit, [item], context)]
    if len(items) == 1 or _whole(unit):
        return records
    return [
        _compute(unit, [item], context)[0] if record.status in ("failed", "undone") else record
        for item, record in zip(items, records, strict=True)
    ]


def _unedited(unit: Unit, facts: Sequence[Any], context: Context) -> list[Record]:
    scores = score_cases(context.model, facts, memory=context.memory)
    further = _further(unit, facts, None, context)
    return [
        Record(score.case_id, "done", {**_views(score), **more}) for score, more in zip(scores, further, strict=True)
    ]


def _edit(unit: Unit, facts: Sequence[Any], context: Context) -> list[Record]:
    assert unit.method != "none"
    missing = context.lacking(unit.method)
    if missing is not None:
        return [Record(fact.case_id, "excluded", {"reason": missing}) for fact in facts]
    if unit.perspective == "relation" and any(fact.relation is None for fact in facts):
        reason = "the record has no relation fields, so it cannot be edited through the relation perspective"
        own = [fact for fact in facts if fact.relation is not None]
        kept = {record.case_id: record for record in _edit(unit, own, context)} if own else {}
        return [kept.get(f.case_id, Record(f.case_id, "excluded", {"reason": reason})) for f in facts]
    editor = controlled_editor(context.editor(unit.method, unit.correct), unit.control)
    order = context.order(unit)
    history = None if order is None else order.before(facts[0].case_id)
    outcomes = controlled_edits(editor, facts, unit.perspective, unit.control, context.following, history)
    if order is not None and history is not None:
        order.after([fact.case_id for fact in facts], history)
    made = [(fact, one) for fact, one in zip(facts, outcomes, strict=True) if isinstance(one, Edited)]
    undone = METHODS[unit.method].undone(editor.protocol.switches())
    edits = None if undone else [one.edit for _, one in made]
    scored = [fact for fact, _ in made]
    scores = score_cases(context.model, scored, edits, context.memory) if made else []
    further = _further(unit, scored, edits, context)
    records = {}
    for (fact, one), score, more in zip(made, scores, further, strict=True):
        told: dict[str, Any] = {"hparams": hparams_hash(editor.hparams), **one.told(), **_views(score), **more}
        if undone:
            told["undone"] = True
        if order is not None:
            told["after"] = order.position(fact.case_id)
        records[fact.case_id] = Record(fact.case_id, "done", told)
    for fact, outcome in zip(facts, outcomes, strict=True):
        if isinstance(outcome, EditError):
            records[fact.case_id] = failed(fact.case_id, outcome)
    return [records[fact.case_id] for fact in facts]


def _further(unit: Unit, facts: Sequence[Any], edits: Sequence[Edit] | None, context: Context) -> list[dict[str, Any]]:
    """What records hold of removal and generation, where the unit asks for them."""
    if not (unit.further and facts):
        return [{} for _ in facts]
    return [{"further": further_json(one)} for one in further_scores(context.model, facts, edits, context.memory)]


def _trace(unit: Unit, statements: Sequence[Any], context: Context) -> list[Record]:
    relation = context.relation_noise_level if unit.perspective == "relation" else None
    settings = TraceSettings(
        context.noise_level if relation is None else relation,
        kind=unit.kind,
        window=unit.window_of(context.model.decoder.layers),
        sever=unit.sever,
        samples=SAMPLES,
        fresh_noise=context.protocol.severed_fresh_noise,
        perspective=unit.perspective,
    )
    excluded = {one.case_id: _without_words(one) for one in statements} if relation is not None else {}
    records = {case: Record(case, "excluded", {"reason": reason}) for case, reason in excluded.items() if reason}
    # A trace is hundreds of passes: what does not count is left out after one.
    records |= unanswered(context.model, [one for one in statements if one.case_id not in records], context.memory)
    left = [statement for statement in statements if statement.case_id not in records]
    records |= _told(left, trace_all(context.model, left, settings, context.memory))
    return [records[statement.case_id] for statement in statements]


def _knockout(unit: Unit, items: Sequence[Any], context: Context) -> list[Record]:
    """Every edge of the table, in windows about every layer."""
    asked = [one if isinstance(one, Statement) else one.statement_of(unit.perspective) for one in items]
    reason = "the record has no relation fields, so it has no prompt that asks for its relation"
    statements = [one for one in asked if one is not None]
    records = {
        item.case_id: Record(item.case_id, "excluded", {"reason": reason})
        for item, one in zip(items, asked, strict=True)
        if one is None
    }
    records |= unanswered(context.model, statements, context.memory)
    left = [statement for statement in statements if statement.case_id not in records]
    window = unit.window_of(context.model.decoder.layers)
    records |= _told(left, knockout_all(context.model, left, list(EDGES.values()), window, context.memory))
    return [records[item.case_id] for item in items]


def _told(statements: Sequence[Statement], found: Sequence[Trace | Knockout | ArtifactError]) -> dict[int, Record]:
    """What was found of each statement as its record, by case."""
    return {
        statement.case_id: failed(statement.case_id, one)
        if isinstance(one, ArtifactError)
        else Record(statement.case_id, "done", one.told())
        for statement, one in zip(statements, found, strict=True)
    }


def _without_words(statement: Statement) -> str:
    """Why the authors' file of relation traces has no words for a statement; empty where it has."""
    if statement.relation_words is None:
        return "the authors' file of relation traces does not hold this statement"
    count = statement.prompt.count(statement.relation_words)
    if count != 1:
        return f"the relation's words {statement.relation_words!r} are {count} times in the prompt, expected once"
    return ""


def _views(score: CaseScore) -> dict[str, Any]:
    return {"views": msgspec.to_builtins(score.views)}


def _task(unit: Unit, facts: Sequence[Any], context: Context) -> list[Record]:
    found: list[Record] = resolve_name(TASKS[unit.task].compute)(unit, facts, context)
    return found


_COMPUTE = {"unedited": _unedited, "edit": _edit, "trace": _trace, "knockout": _knockout, "task": _task}
