"""The local engine: the records of one batch of facts of one unit, computed in this process.

Covers what each kind of unit does to a fact. It stores nothing and keeps no order (runner.py).
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from artifact.editing.edit import Edited
from artifact.editing.hparams import hparams_hash
from artifact.errors import ArtifactError, EditError
from artifact.evaluation.metrics import CaseScore
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, Statement
from artifact.plan import Unit
from artifact.runs.setup import SAMPLES, Context
from artifact.runs.store import Record
from artifact.tracing.trace import Settings, trace_all


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """One record a fact, in order. A fact that cannot be computed gives a failed record with its reason.

    When a batch fails as a whole, its facts are computed one by one, so that one bad fact costs only itself.
    """
    try:
        return _COMPUTE[unit.does](unit, facts, context)
    except ArtifactError as error:
        if len(facts) == 1:
            return [Record(facts[0].case_id, "failed", {"reason": str(error)})]
        return [record for fact in facts for record in compute(unit, [fact], context)]


def _unedited(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    return [Record(score.case_id, "done", _views(score)) for score in score_cases(context.model, facts)]


def _edit(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    assert unit.method != "none"
    missing = context.lacking(unit.method)
    if missing is not None:
        return [Record(fact.case_id, "excluded", {"reason": missing}) for fact in facts]
    editor = context.editor(unit.method)
    found = editor.edits([[fact.view(unit.perspective)] for fact in facts])
    made = [(fact, one) for fact, one in zip(facts, found, strict=True) if isinstance(one, Edited)]
    undone = unit.method == "kn" and context.protocol.kn_undone
    edits = None if undone else [one.edit for _, one in made]
    scores = score_cases(context.model, [fact for fact, _ in made], edits) if made else []
    records = {}
    for (fact, one), score in zip(made, scores, strict=True):
        told: dict[str, Any] = {"hparams": hparams_hash(editor.hparams), **one.told(), **_views(score)}
        if undone:
            told["undone"] = True
        records[fact.case_id] = Record(fact.case_id, "done", told)
    for fact, failed in zip(facts, found, strict=True):
        if isinstance(failed, EditError):
            records[fact.case_id] = Record(fact.case_id, "failed", {"reason": str(failed)})
    return [records[fact.case_id] for fact in facts]


def _trace(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    settings = Settings(
        context.noise_level,
        kind=unit.kind,
        window=unit.window,
        sever=unit.sever,
        samples=SAMPLES,
        fresh_noise=context.protocol.severed_fresh_noise,
        corrupt=unit.corrupt,
    )
    statements = [Statement(f.case_id, f.prompt, f.subject, f.template, f.object_true) for f in facts]
    records = []
    for fact, traced in zip(facts, trace_all(context.model, statements, settings, context.memory), strict=True):
        if isinstance(traced, ArtifactError):
            records.append(Record(fact.case_id, "failed", {"reason": str(traced)}))
        elif traced.answer_id != context.model.tokens.ids(f" {fact.object_true}")[0]:
            reason = f"the model's greedy answer is {traced.answer.strip()!r}, not {fact.object_true!r}"
            records.append(Record(fact.case_id, "excluded", {"reason": reason}))
        else:
            payload = asdict(traced)
            del payload["case_id"]
            records.append(Record(fact.case_id, "done", payload))
    return records


def _views(score: CaseScore) -> dict[str, Any]:
    return {"views": msgspec.to_builtins(score.views)}


_COMPUTE = {"unedited": _unedited, "edit": _edit, "trace": _trace}
