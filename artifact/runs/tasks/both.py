"""The task `both`: the two perspectives of one fact edited alone, one on the other, and together, by MEMIT.

Covers the arms (ARMS), each scored against the unedited model, and how alike the two edits are: the cosines of their
keys, values and deltas. `then`: the second edit is computed on the model that carries the first. `joint`: MEMIT with
both requests. `merged`: one value for both prompts, as MEMIT-Merge makes it, whatever the keys' cosine (recorded).
`split`: the entity's edit as published, the relation's at the prompt's last token in late layers, both computed on the
unedited model. A record holds each arm's scores, or why it could not be computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch

from artifact.editing.edit import Edit, added_up
from artifact.editing.editor import Editor
from artifact.editing.memit import MemitEdit, keys_of, memit
from artifact.editing.methods.memit import MemitHparams
from artifact.errors import EditError
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, View
from artifact.plans.both import late_layers
from artifact.plans.unit import Unit
from artifact.runs.context import Context
from artifact.runs.record import Record
from artifact.runs.scored import numbers_of, scores_of
from artifact.runs.tasks.where import site_moments

ARMS = ("E", "R", "E then R", "R then E", "joint", "merged", "split")
ANY_KEYS = -1.0
"""The cosine from which keys are merged: any."""
_NO_RELATION = "the record has no relation fields, so it has one perspective alone"
Made = Edit | EditError


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """A record a fact, in order; one without the relation's fields is left out."""
    usable = [fact for fact in facts if fact.relation is not None]
    made = {fact.case_id: Record(fact.case_id, "excluded", {"reason": _NO_RELATION}) for fact in facts}
    if usable:
        editor = context.editor("memit")
        layers = (*editor.hparams.layers, *_late(editor))
        editor = replace(editor, moments=site_moments(context, "mlp", layers))
        found = arms(editor, [(fact.view("entity"), fact.view("relation")) for fact in usable])
        scored = {arm: _scores(usable, edits, context) for arm, edits in found.edits.items()}
        before = score_cases(context.model, usable, memory=context.memory)
        for number, fact in enumerate(usable):
            payload = {
                "before": numbers_of(before[number]),
                "arms": {arm: scores[number] for arm, scores in scored.items()},
                "cosines": found.cosines[number],
                "late": _late(editor),
            }
            made[fact.case_id] = Record(fact.case_id, "done", payload)
    return [made[fact.case_id] for fact in facts]


class Arms(msgspec.Struct, frozen=True):
    """By arm, the edit of each fact or why there is none; and each fact's cosines between its two single edits."""

    edits: Mapping[str, Sequence[Made]]
    cosines: Sequence[Mapping[str, float]]


def arms(editor: Editor, pairs: Sequence[tuple[View, View]]) -> Arms:
    """Every arm's edit of each fact, given as its entity's and its relation's view; `editor` is MEMIT's."""
    entity, relation = _memit(editor, [[e] for e, _ in pairs]), _memit(editor, [[r] for _, r in pairs])
    hparams = editor.hparams
    late = msgspec.structs.replace(hparams, layers=_late(editor), fact_token="last")
    both = [[e, r] for e, r in pairs]
    edits: dict[str, Sequence[Made]] = {
        "E": [_edit(one) for one in entity],
        "R": [_edit(one) for one in relation],
        "E then R": [_then(editor, one, e, r) for one, (e, r) in zip(entity, pairs, strict=True)],
        "R then E": [_then(editor, one, r, e) for one, (e, r) in zip(relation, pairs, strict=True)],
        "joint": [_edit(one) for one in _memit(editor, both)],
        "merged": [_edit(one) for one in _memit(editor, both, merge=ANY_KEYS)],
    }
    at_last = _memit(replace(editor, hparams=late), [[r] for _, r in pairs])
    edits["split"] = [_sum(_edit(e), _edit(r)) for e, r in zip(entity, at_last, strict=True)]
    alike = [_cosines(editor, *pair, e, r) for pair, e, r in zip(pairs, entity, relation, strict=True)]
    return Arms(edits, alike)


def _late(editor: Editor) -> tuple[int, ...]:
    """The layers of the late edit of the editor's model."""
    return late_layers(editor.model.decoder.layers, len(editor.hparams.layers))


def _memit(
    editor: Editor, groups: Sequence[Sequence[View]], merge: float | None = None
) -> Sequence[MemitEdit | EditError]:
    hparams: MemitHparams = editor.hparams
    assert editor.moments is not None
    return memit(
        editor.model,
        groups,
        hparams,
        editor.prefixes,
        editor.moments,
        editor.protocol,
        editor.memory,
        merge=merge,
    )


def _edit(made: MemitEdit | EditError) -> Made:
    return made.edit if isinstance(made, MemitEdit) else made


def _then(editor: Editor, first: MemitEdit | EditError, view: View, following: View) -> Made:
    """The first edit and the one that is computed on the model that carries it, as one."""
    if isinstance(first, EditError):
        return first
    (second,) = _memit(editor.after([view], first), [[following]])
    return _sum(first.edit, _edit(second))


def _sum(one: Made, other: Made) -> Made:
    if isinstance(one, EditError):
        return one
    return other if isinstance(other, EditError) else added_up([one, other])


@torch.no_grad()
def _cosines(
    editor: Editor, e: View, r: View, entity: MemitEdit | EditError, relation: MemitEdit | EditError
) -> dict[str, float]:
    """Between the entity's and the relation's edit: of the keys at the last layer, the values, and the deltas."""
    layers = editor.hparams.layers
    keys_NM = keys_of(editor.model, [e, r], layers[-1:], editor.prefixes)[layers[-1]]
    found = {"keys": _cosine(keys_NM[0], keys_NM[1])}
    if isinstance(entity, MemitEdit) and isinstance(relation, MemitEdit):
        found["values"] = _cosine(entity.values_ND[0], relation.values_ND[0])
        deltas = [one.values_ND[0] - one.written[layers[0]].current_ND[0] for one in (entity, relation)]
        found["deltas"] = _cosine(*deltas)
    return found


def _cosine(one_X: torch.Tensor, other_X: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one_X.double(), other_X.double(), dim=0))


def _scores(facts: Sequence[Fact], edits: Sequence[Made], context: Context) -> list[dict[str, Any]]:
    """Each fact's numbers under its edit, or why it has none."""
    return [
        {"values": numbers_of(score), "norm": edit.norm()}
        if isinstance(edit, Edit) and not isinstance(score, EditError)
        else {"reason": str(edit)}
        for edit, score in zip(edits, scores_of(facts, edits, context), strict=True)
    ]
