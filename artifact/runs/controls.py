"""Negative controls: what stands in the place of an edit to show what an edit that should do nothing does.

Covers an edit of another layer, an edit of equal norm and random direction, and an edit of another fact's subject, each
scored as the edit would be. Every choice depends on the case or the model alone, so that a resumed run makes the same.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from artifact.editing.edit import Change, Dense, Edit, Edited, LowRank
from artifact.editing.editor import Editor
from artifact.editing.mend_history import History
from artifact.editing.methods import METHODS
from artifact.errors import EditError
from artifact.facts.fact import Fact, Perspective, View
from artifact.lm.load import ModelKind
from artifact.plans.unit import Control
from artifact.sizes import count_of


def another_layer(edited: Sequence[int], layers: int) -> tuple[int, ...]:
    """As many layers of a model of that depth, neighbours as they are, none of them among those edited; none
    where there are no such layers.
    """
    width = edited[-1] - edited[0]
    starts = [at for at in range(layers - width) if at > edited[-1] or at + width < edited[0]]
    if not starts:
        return ()
    shift = random.Random(layers).choice(starts) - edited[0]
    return tuple(layer + shift for layer in edited)


def no_other_layers(edited: Sequence[int], model: ModelKind) -> str:
    """Why a model has no other layers than those edited for a control to edit; empty where it has."""
    if another_layer(edited, model.layers):
        return ""
    has = count_of(model.layers, "layer")
    return f"{model.name} has {has}, and edits of {list(edited)} leave no others; give a deeper model"


def other_layers(
    methods: Iterable[str], model: str, layers: int, file_of: Callable[[str], Path | None] = lambda name: None
) -> set[int]:
    """The layers that the controls of these methods edit on a model of that name and depth, and so read second moments
    of; `file_of` as of moment_layers.
    """
    edited = [METHODS[name].hparams_for(model, layers, file_of(name)).edited for name in methods]
    return {layer for own in edited for layer in another_layer(own, layers)}


def controlled_editor(editor: Editor, control: Control | None) -> Editor:
    """The editor of a control's edits; without a control the editor itself. EditError where the model has no other
    layers to edit.
    """
    if control != "random_layer":
        return editor
    hparams: Any = editor.hparams
    if refused := no_other_layers(hparams.edited, editor.model.kind):
        raise EditError(refused)
    other = another_layer(hparams.edited, editor.model.decoder.layers)
    last = {"v_loss_layer": max(hparams.v_loss_layer, other[-1])} if hasattr(hparams, "v_loss_layer") else {}
    return replace(editor, hparams=msgspec.structs.replace(hparams, layers=other, **last))


def shuffled_views(views: Sequence[View], others: Sequence[Fact]) -> list[View]:
    """The views that are edited with a shuffled subject: that of the fact of `others` in the same place."""
    return [replace(view, subject=other.subject) for view, other in zip(views, others, strict=True)]


def controlled_edit(edited: Edited, control: Control, case_id: int) -> Edited:
    """The edit that is scored: of random direction, with the norm and the rank of the one that was made."""
    if control != "random_direction":
        return edited
    generator = torch.Generator().manual_seed(case_id)
    changes = {name: _at_random(change, generator) for name, change in edited.edit.changes.items()}
    return replace(edited, edit=Edit(changes))


def controlled_edits(
    editor: Editor,
    facts: Sequence[Fact],
    perspective: Perspective,
    control: Control | None,
    following: Callable[[Fact], Fact],
    history: History | None = None,
) -> Sequence[Edited | EditError]:
    """Each fact's edit from one perspective, or what stands in its place; `editor` is the control's, and a shuffled
    subject that of the fact `following` it.
    """
    views = [fact.view(perspective) for fact in facts]
    if control is None:
        return editor.edits([[view] for view in views], history)
    if control == "shuffled_subject":
        views = shuffled_views(views, [following(fact) for fact in facts])
    outcomes = zip(facts, editor.edits([[view] for view in views], history), strict=True)
    return [controlled_edit(one, control, fact.case_id) if isinstance(one, Edited) else one for fact, one in outcomes]


def _at_random(change: Change, generator: torch.Generator) -> Change:
    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    drawn: Change
    if isinstance(change, LowRank):
        drawn = LowRank(like(change.left_IR), like(change.right_RO))
        return LowRank(drawn.left_IR, drawn.right_RO * (change.norm() / drawn.norm()))
    drawn = Dense(*(None if part is None else like(part) for part in (change.weight_IO, change.bias_O)))
    scale = change.norm() / drawn.norm()
    return Dense(*(None if part is None else part * scale for part in (drawn.weight_IO, drawn.bias_O)))
