"""The facts and statements of a run that its model answers, where a plan takes only those; records of the others."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

from artifact.errors import ArtifactError, DoesNotFit, FactError
from artifact.facts.aside import without_aside
from artifact.facts.dataset import Data
from artifact.facts.fact import Fact, Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.plans.unit import Plan
from artifact.runs.inputs import Inputs
from artifact.runs.record import Record
from artifact.runs.store import NOT_ANSWERED
from artifact.tracing.trace import answered, greedy_answers, is_answer

_ASKED_TOGETHER = 16


def answered_statements(model: LanguageModel, traced: Data, plan: Plan, memory: Memory) -> Data:
    """The first statements that the model answers as the data says, as many as a unit traces."""
    most = max((unit.most or len(traced.statements) for unit in plan.units if unit.does == "trace"), default=0)
    kept: list[Statement] = []
    for start in range(0, len(traced.statements), _ASKED_TOGETHER):
        if len(kept) >= most:
            break
        part = traced.statements[start : start + _ASKED_TOGETHER]
        kept += compress(part, answered(model, part, memory))
    note = f"{traced.note}; traced are the first {len(kept[:most])} that the model answers"
    return replace(traced, statements=kept[:most], note=note)


def only_answered(model: LanguageModel, inputs: Inputs, plan: Plan, limit: int | None, memory: Memory) -> Inputs:
    """The first facts that the model answers, none of them set aside, as many as a unit takes; traces ask the same.

    Raises FactError where it answers none.
    """
    data = without_aside(inputs.edited)
    most = min(max(unit.most or len(data.facts) for unit in plan.units), limit or len(data.facts))
    kept: list[Fact] = []
    asked = 0
    while len(kept) < most and asked < len(data.facts):
        part = data.facts[asked : asked + _ASKED_TOGETHER]
        asked += len(part)
        kept += compress(part, answered(model, [fact.statement for fact in part], memory))
    if not kept:
        raise FactError(
            f"{data.source}: {model.name} answers none of {asked} facts; ask for another model or give other facts"
        )
    taken = f"the first {most} taken" if len(kept) > most else "all taken"
    note = f"{data.note}; of the first {asked}, {len(kept)} are answered by {model.name}, {taken}"
    edited = replace(data, facts=kept[:most], statements=[], odd=(), cases=(), note=note)
    traced = replace(edited, statements=[fact.statement for fact in kept[:most]])
    own = inputs.traced.note.removeprefix(inputs.edited.note)  # what is said of the words that relation traces corrupt
    return replace(inputs, edited=edited, traced=replace(traced, note=f"{note}{own}"), whole=data)


def unanswered(model: LanguageModel, statements: Sequence[Statement], memory: Memory) -> dict[int, Record]:
    """Records of the statements that the model does not answer as their source says, by case."""
    records = {}
    for statement, answer in zip(statements, greedy_answers(model, statements, memory), strict=True):
        if isinstance(answer, ArtifactError):
            records[statement.case_id] = failed(statement.case_id, answer)
        elif not is_answer(model, statement, answer):
            reason = f"{NOT_ANSWERED} {model.tokens.label(answer).strip()!r}, not {statement.answer!r}"
            records[statement.case_id] = Record(statement.case_id, "excluded", {"reason": reason})
    return records


def failed(case_id: int, error: ArtifactError) -> Record:
    """What is recorded of a case that cannot be computed; undone where that is this device's fault."""
    return Record(case_id, "undone" if isinstance(error, DoesNotFit) else "failed", {"reason": str(error)})
