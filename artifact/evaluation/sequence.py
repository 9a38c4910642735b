"""Many edits in one model: written one after the other, and as one batch; what each fact then says.

Covers curves over the number of facts: for each of the sizes, that many facts are written in both ways and all of them
are scored on the model that carries the edits. The given model's weights never change: the models that carry edits are
others. An edit that cannot be computed is left out of its sequence, with its reason, and so is a fact of which the
model cannot be asked every text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from artifact.editing.edit import Edited
from artifact.editing.editor import Editor
from artifact.editing.mend_history import History
from artifact.errors import EditError, PromptError, SettingError
from artifact.evaluation.further import FurtherScore, further_scores
from artifact.evaluation.metrics import CaseScore
from artifact.evaluation.score import cannot_be_asked, score_cases
from artifact.facts.fact import Fact, Perspective, View
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel

Way = Literal["sequence", "batch"]


@dataclass(frozen=True)
class Point:
    """So many facts written in one way: the scores, on the model that carries them, of every fact that it can be asked,
    and why edits failed, by case id. A model whose numbers are no longer finite has no scores, and every fact failed.
    """

    facts: int
    way: Way
    scores: Sequence[CaseScore]
    further: Sequence[FurtherScore]
    failed: dict[int, str]


def curve(
    editor: Editor, facts: Sequence[Fact], perspective: Perspective, sizes: Sequence[int], memory: Memory
) -> list[Point]:
    """A point for each size and way, in rising order; without batches for a method that edits single facts.

    SettingError for more facts than there are, and for a method that changes no weight.
    """
    if not editor.method.carries:
        raise SettingError(f"{editor.method.name} changes no weight, so that no edit could follow another")
    if max(sizes) > len(facts):
        raise SettingError(f"{max(sizes)} facts are asked for and {len(facts)} are given; ask for fewer")
    facts = facts[: max(sizes)]
    views = [fact.view(perspective) for fact in facts]
    unasked = cannot_be_asked(editor.model, facts, removal=True)
    points: list[Point] = []
    carrying, history, failed = editor, History(), dict(unasked)
    for at, (fact, view) in enumerate(zip(facts, views, strict=True), 1):
        if fact.case_id not in unasked:
            (edited,) = carrying.edits([[view]], history if editor.ordered else None)
            if isinstance(edited, EditError):
                failed[fact.case_id] = str(edited)
            else:
                carrying = carrying.after([view], edited)
        if at not in sizes:
            continue
        points.append(_point(carrying.model, facts[:at], "sequence", failed, unasked, memory))
        if editor.method.joint:
            points.append(_batch(editor, facts[:at], perspective, unasked, memory))
    return points


def _batch(
    editor: Editor, facts: Sequence[Fact], perspective: Perspective, unasked: dict[int, str], memory: Memory
) -> Point:
    """All facts written jointly; where that fails, those that can be written alone, if some cannot."""
    failed = dict(unasked)
    while written := [fact for fact in facts if fact.case_id not in failed]:
        views = [fact.view(perspective) for fact in written]
        edited = _joint(editor, views)
        if isinstance(edited, Edited):
            return _point(editor.after(views, edited).model, facts, "batch", failed, unasked, memory)
        alone = [_joint(editor, [view]) for view in views] if len(views) > 1 else [edited]
        refused = {
            fact.case_id: str(one) for fact, one in zip(written, alone, strict=True) if isinstance(one, EditError)
        }
        failed |= refused or {fact.case_id: str(edited) for fact in written}
    return _point(editor.model, facts, "batch", failed, unasked, memory)


def _joint(editor: Editor, views: Sequence[View]) -> Edited | EditError:
    (edited,) = editor.edits([views], History() if editor.ordered else None)
    return edited


def _point(
    model: LanguageModel,
    facts: Sequence[Fact],
    way: Way,
    failed: dict[int, str],
    unasked: dict[int, str],
    memory: Memory,
) -> Point:
    asked = [fact for fact in facts if fact.case_id not in unasked]
    failed = {fact.case_id: failed[fact.case_id] for fact in facts if fact.case_id in failed}
    try:
        scores, further = score_cases(model, asked, memory=memory), further_scores(model, asked, memory=memory)
    except (EditError, PromptError) as error:
        reason = f"on the model that carries {len(facts)} edits: {error}"
        return Point(len(facts), way, (), (), {fact.case_id: reason for fact in facts} | failed)
    return Point(len(facts), way, scores, further, failed)
