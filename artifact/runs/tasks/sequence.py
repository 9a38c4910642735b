"""The task `sequence`: facts written into one model one after the other, and as one batch, and what each then says.

Covers one method and one perspective. After each of the unit's sizes, all facts written so far are scored on the model
that carries them (evaluation/sequence.py). A fact's record holds its numbers on the unedited model and at every point
that it belongs to, and why its own edit failed, if it did. The facts are computed together: none has a number alone.
"""

from collections.abc import Sequence
from typing import Any

from artifact.errors import FactError
from artifact.evaluation.further import further_json, further_scores
from artifact.evaluation.score import cannot_be_asked, score_cases
from artifact.evaluation.sequence import Point, curve
from artifact.facts.fact import Fact, View
from artifact.facts.joint import refuse_conflicts
from artifact.plans.sequence import sizes_of
from artifact.plans.unit import Unit
from artifact.runs.context import Context
from artifact.runs.record import Record
from artifact.runs.scored import numbers_of


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """A record a fact, in order; one without the relation's fields is left out of the relation perspective, and so is
    one that wants another answer to the prompt of a fact before it.
    """
    assert unit.method != "none"
    unasked = cannot_be_asked(context.model, facts, removal=True)
    written, left_out = _together(unit, [fact for fact in facts if fact.case_id not in unasked])
    made = {case: Record(case, "excluded", {"reason": reason}) for case, reason in left_out.items()}
    made |= {case: Record(case, "failed", {"reason": reason}) for case, reason in unasked.items()}
    if written:
        editor = context.editor(unit.method)
        points = curve(editor, written, unit.perspective, sizes_of(unit, len(written)), context.memory)
        scores = score_cases(context.model, written, memory=context.memory)
        further = further_scores(context.model, written, memory=context.memory)
        for place, (fact, score, more) in enumerate(zip(written, scores, further, strict=True)):
            before = {"values": numbers_of(score), "further": further_json(more)}
            own = [(point, _numbers(point, place, fact)) for point in points if place < point.facts]
            told = [{"facts": point.facts, "way": point.way, **numbers} for point, numbers in own]
            made[fact.case_id] = Record(fact.case_id, "done", {"place": place, "before": before, "points": told})
    return [made[fact.case_id] for fact in facts]


def _numbers(point: Point, place: int, fact: Fact) -> dict[str, Any]:
    """What a point says of the fact that was written in that place."""
    told: dict[str, Any] = {}
    if point.scores:
        told = {"values": numbers_of(point.scores[place]), "further": further_json(point.further[place])}
    reason = point.failed.get(fact.case_id)
    return told if reason is None else told | {"failed": reason}


def _together(unit: Unit, facts: Sequence[Fact]) -> tuple[list[Fact], dict[int, str]]:
    """The facts that can be written into one model, and why the others cannot, by case."""
    written: list[Fact] = []
    views: list[View] = []
    left_out: dict[int, str] = {}
    for fact in facts:
        try:
            view = fact.view(unit.perspective)
            names = [f"case {one.case_id}" for one in (*written, fact)]
            refuse_conflicts([*views, view], names, "facts of one model")
        except FactError as error:
            left_out[fact.case_id] = str(error)
        else:
            written.append(fact)
            views.append(view)
    return written, left_out
