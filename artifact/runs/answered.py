"""The facts and statements of a run that its model answers, where a plan takes only those."""

from dataclasses import replace

from artifact.errors import FactError
from artifact.facts.aside import without_aside
from artifact.facts.dataset import Data
from artifact.facts.fact import Fact, Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.plans.unit import Plan
from artifact.runs.inputs import Inputs
from artifact.tracing.trace import greedy_answers, is_answer

_ASKED_TOGETHER = 16


def answered_statements(model: LanguageModel, traced: Data, plan: Plan, memory: Memory) -> Data:
    """The first statements that the model answers as the data says, as many as a unit traces."""
    most = max((unit.most or len(traced.statements) for unit in plan.units if unit.does == "trace"), default=0)
    answered: list[Statement] = []
    for start in range(0, len(traced.statements), _ASKED_TOGETHER):
        if len(answered) >= most:
            break
        part = traced.statements[start : start + _ASKED_TOGETHER]
        said = zip(part, greedy_answers(model, part, memory), strict=True)
        answered += [one for one, token in said if isinstance(token, int) and is_answer(model, one, token)]
    note = f"{traced.note}; traced are the first {len(answered[:most])} that the model answers"
    return replace(traced, statements=answered[:most], note=note)


def only_answered(model: LanguageModel, inputs: Inputs, plan: Plan, limit: int | None, memory: Memory) -> Inputs:
    """The first facts that the model answers, none of them set aside, as many as a unit takes; traces ask the same.

    Raises FactError where it answers none.
    """
    data = without_aside(inputs.edited)
    most = min(max(unit.most or len(data.facts) for unit in plan.units), limit or len(data.facts))
    answered: list[Fact] = []
    asked = 0
    while len(answered) < most and asked < len(data.facts):
        part = data.facts[asked : asked + _ASKED_TOGETHER]
        asked += len(part)
        statements = [fact.statement for fact in part]
        said = zip(part, statements, greedy_answers(model, statements, memory), strict=True)
        answered += [fact for fact, one, token in said if isinstance(token, int) and is_answer(model, one, token)]
    if not answered:
        raise FactError(
            f"{data.source}: {model.name} answers none of {asked} facts; ask for another model or give other facts"
        )
    note = f"{data.note}; of the first {asked}, {len(answered)} are answered by {model.name}, the first {most} taken"
    edited = replace(data, facts=answered[:most], statements=[], odd=(), cases=(), note=note)
    traced = replace(edited, statements=[fact.statement for fact in answered[:most]])
    own = inputs.traced.note.removeprefix(inputs.edited.note)  # what is said of the words that relation traces corrupt
    return replace(inputs, edited=edited, traced=replace(traced, note=f"{note}{own}"))
