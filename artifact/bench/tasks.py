"""What the tasks of the questions' plans take for one fact, from the same formulas as the paper's units (work.py).

Covers one function a task, named in plans/tasks.py. Where a number follows from the facts' wording, the most is taken,
and for the expected time what is said beside it.
"""

from dataclasses import replace
from typing import Any

import msgspec

from artifact.bench.planned import Planned
from artifact.bench.work import scored, traced, with_steps
from artifact.editing.methods import METHODS
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.facts.lengths import PAPER_LENGTHS
from artifact.lm.work import Work
from artifact.plans.both import late_layers
from artifact.plans.encoders import WINDOW
from artifact.plans.multiverse import ROLES, own_window
from artifact.plans.sequence import sizes_of
from artifact.plans.unit import CONTROLS, Unit
from artifact.plans.where import edited_layers
from artifact.tracing.choices import CORRUPTED, DIRECTIONS, RELATION_SPANS, windows_of
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TRACE_KINDS

_DRAWN = {"noise": 10, "replace": 5, "mean": 1}
"""Corrupted runs of one trace: noise samples, at most five donors, one mean."""
_SUBJECT_FIRST = 0.83
"""Share of the known facts' prompts that begin with the subject (facts/lengths.py). In these the relation's last token
is the prompt's, and the words after the subject are all of the relation's."""


def multiverse(unit: Unit, model: Planned, share: float | None) -> Work:
    """Every way of one kind of trace. Spans that corrupt the same tokens are traced once."""
    shape, kind = model.shape, unit.trace_kind
    every = "first corrupted token" in ROLES[kind.name, unit.perspective]
    lengths = (PAPER_LENGTHS.traced if every else PAPER_LENGTHS.last)[unit.perspective]
    windows = windows_of(shape.layers, own_window(model.name, shape.layers)) if kind.windowed else [1]
    spans = 1.0 if unit.perspective == "entity" else len(RELATION_SPANS) - (0 if share else _SUBJECT_FIRST)
    work = Work(0)
    for corruption, _ in CORRUPTED.values():
        for window in windows:
            work += traced(shape, kind, window, lengths, _DRAWN[corruption]).times(spans * len(DIRECTIONS))
    return work


def where(unit: Unit, model: Planned, share: float | None) -> Work:
    """ROME at every layer and token of one module with its scores, and one trace; layers do not share their work."""
    shape, perspective = model.shape, unit.perspective
    tokens = len(str(unit.option("tokens")).split()) - (0 if share else _SUBJECT_FIRST)
    work = Work(0)
    for layer in edited_layers(unit, shape.layers):
        work += _edit("rome", model, perspective, share, layers=(layer,)) + scored(shape, PAPER_LENGTHS)
    kind = TRACE_KINDS[str(unit.option("site"))]
    return work.times(tokens) + traced(shape, kind, 1, PAPER_LENGTHS.traced[perspective]) + scored(shape, PAPER_LENGTHS)


def where_layers(unit: Unit, model: Planned) -> tuple[int, ...]:
    """The layers whose second moments `where` reads: those that it edits."""
    return edited_layers(unit, model.shape.layers)


def both(unit: Unit, model: Planned, share: float | None) -> Work:
    """MEMIT's seven arms: each perspective alone, after the other (fact by fact), twice together, the relation late;
    and eight scores.
    """
    e, r = (_edit("memit", model, perspective, share) for perspective in PERSPECTIVES)
    alone = (e + r).times(unit.batch)
    after = replace(e + r, passes=alone.passes)
    late = _edit("memit", model, "relation", share, layers=_late(model))
    return (e + r).times(3) + after + late + scored(model.shape, PAPER_LENGTHS).times(8)


def both_layers(unit: Unit, model: Planned) -> tuple[int, ...]:
    """The layers whose second moments `both` reads: MEMIT's and the late ones."""
    return (*METHODS["memit"].hparams_for(model.name, model.shape.layers).layers, *_late(model))


def _late(model: Planned) -> tuple[int, ...]:
    layers = METHODS["memit"].hparams_for(model.name, model.shape.layers).layers
    return late_layers(model.shape.layers, len(layers))


def sequence(unit: Unit, model: Planned, share: float | None) -> Work:
    """Every fact written alone, one after the other, and those of each size as one batch; its score at every point."""
    assert unit.method != "none"
    method, facts = METHODS[unit.method], unit.batch
    again = sum(sizes_of(unit, facts)) / facts  # how many points a fact belongs to, mostly
    one = _edit(unit.method, model, unit.perspective, share)
    work = replace(one, passes=one.times(facts).passes)
    if method.joint:
        work += one.times(again)
    return work + scored(model.shape, PAPER_LENGTHS).times(1 + again * (2 if method.joint else 1))


def encoders(unit: Unit, model: Planned, share: float | None) -> Work:
    """Five kinds of trace, of all tokens and not of half of them; ROME and its controls, KN, and six scores."""
    shape, perspective = model.shape, unit.perspective
    window = scaled_window(shape.layers, WINDOW)
    work = scored(shape, PAPER_LENGTHS).times(3 + len(CONTROLS)) + _edit("kn", model, perspective, share)
    for kind in TRACE_KINDS.values():
        if kind.figures:
            work += traced(shape, kind, window, PAPER_LENGTHS.traced[perspective], _DRAWN["noise"]).times(2)
    return work + _edit("rome", model, perspective, share).times(1 + len(CONTROLS))


def _edit(method: str, model: Planned, perspective: Perspective, share: float | None, **more: Any) -> Work:
    """One edit at its published place or another, with every step taken or the expected share of them."""
    known = METHODS[method]
    hparams = known.hparams_for(model.name, model.shape.layers)
    hparams = with_steps(known, hparams, known.stops.get(perspective, 1.0) if share is None else share)
    return known.work(model.shape, msgspec.structs.replace(hparams, **more), PAPER_LENGTHS, perspective)
