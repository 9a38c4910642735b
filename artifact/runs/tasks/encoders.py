"""The task `encoders`: an encoder traced and edited from one perspective, with controls.

The encoder is the run's model or, of the embedded world, its masked twin. Covers every kind of trace of the figures,
by the role of the restored token, those on the right of the mask included; and ROME and KN, each beside the unedited
model, ROME also at another layer, in a random direction of equal norm, and for another fact's subject. No published
evaluation of an edited encoder was found, so KN's edit stays in place while it is scored.
"""

from collections.abc import Sequence
from typing import Any

from artifact.editing.edit import Edited
from artifact.editing.methods import METHODS
from artifact.errors import ArtifactError, EditError
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, Perspective
from artifact.lm.load import ModelKind, load
from artifact.plans.encoders import LEFT, RIGHT, WINDOW
from artifact.plans.unit import CONTROLS, Unit
from artifact.runs.context import SAMPLES, Context
from artifact.runs.controls import controlled_editor, controlled_edits
from artifact.runs.noise import noise_level
from artifact.runs.record import Record
from artifact.runs.scored import numbers_of, scores_of
from artifact.sources.catalogue import MASKED_WORLD, WORLD
from artifact.tracing.averages import role_tokens
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import TRACE_KINDS
from artifact.tracing.trace import Trace, TraceSettings, answered, trace_all

CONTROLLED = "rome"
"""The method that the controls are of."""


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """A record a fact, in order; one without the relation's fields is left out of the relation's perspective."""
    own = _encoder(context)
    reason = "the record has no relation fields, so it has one perspective alone"
    made = {fact.case_id: Record(fact.case_id, "excluded", {"reason": reason}) for fact in facts}
    usable = [fact for fact in facts if unit.perspective == "entity" or fact.relation is not None]
    if usable:
        traces = _traces(usable, unit.perspective, own)
        arms = _arms(usable, unit.perspective, own)
        before = score_cases(own.model, usable, memory=own.memory)
        about = {"model": own.model.name, "weights": own.model.weights_sha256, "layers": own.model.decoder.layers}
        for number, (fact, traced) in enumerate(zip(usable, traces, strict=True)):
            scored = {"before": numbers_of(before[number]), "arms": {arm: every[number] for arm, every in arms.items()}}
            made[fact.case_id] = Record(fact.case_id, "done", about | scored | {"trace": traced})
    return [made[fact.case_id] for fact in facts]


def refuses(model: ModelKind) -> str:
    """Why a model has no encoder to trace and edit; empty where it is one, or has a masked twin."""
    if not model.family.causal or model.name == WORLD.name:
        return ""
    return f"{model.name} is not an encoder; name a BERT or RoBERTa with --model"


def _encoder(context: Context) -> Context:
    """The run's context with an encoder for its model, made once."""
    own: Context | None = context.kept.get("encoder")
    if own is not None:
        return own
    mine: dict[str, Any] = {"controlled": (CONTROLLED,)}
    if context.model.decoder.family.causal:
        model = load(MASKED_WORLD.name, str(context.model.decoder.device), context.model.decoder.dtype)
        level = noise_level("s3", model, [one.subject for one in context.inputs.traced.statements])
        mine |= {"model": model, "noise_level": level, "methods": (CONTROLLED,)}
        mine |= {"moments_folder": None, "prefixes": {}, "hparams": None}
    context.kept["encoder"] = own = context.with_own(**mine)
    return own


def _traces(facts: Sequence[Fact], perspective: Perspective, context: Context) -> list[dict[str, Any]]:
    """By fact: its probabilities, and by kind and role the mean indirect effect at each layer; or why it has none."""
    statements = [fact.statement for fact in facts]
    right = answered(context.model, statements, context.memory)
    told: list[dict[str, Any]] = [{"reason": "the model does not answer its prompt"} for _ in facts]
    known = [number for number, own in enumerate(right) if own]
    kinds = [kind for kind in TRACE_KINDS.values() if kind.figures]
    for kind in kinds:
        settings = TraceSettings(
            context.noise_level,
            kind=kind.kind,
            window=scaled_window(context.model.decoder.layers, WINDOW),
            sever=kind.sever,
            samples=SAMPLES,
            fresh_noise=False,
            perspective=perspective,
        )
        traces = trace_all(context.model, [statements[number] for number in known], settings, context.memory)
        for number, trace in zip(known, traces, strict=True):
            if isinstance(trace, ArtifactError):
                told[number] = {"reason": str(trace)}
            elif kind is kinds[0]:
                told[number] = {"clean": trace.clean, "corrupted": trace.corrupted}
            if isinstance(trace, Trace):
                told[number].setdefault("effects", {})[kind.name] = _effects(perspective, trace)
    return told


def _effects(perspective: Perspective, trace: Trace) -> dict[str, list[float]]:
    """By role, the mean indirect effect over its tokens at each layer."""
    assert trace.mask is not None
    tokens = range(len(trace.tokens))
    roles = dict(role_tokens(perspective, len(tokens), trace.subject, trace.span, trace.mask))
    roles[RIGHT] = tuple(at for at in tokens if at > trace.mask)
    if perspective == "entity":
        roles[LEFT] = tuple(at for at in tokens if at < trace.subject[0])
    return {
        role: [sum(scores) / len(at) - trace.corrupted for scores in zip(*(trace.scores[i] for i in at), strict=True)]
        for role, at in roles.items()
        if at
    }


def _arms(facts: Sequence[Fact], perspective: Perspective, context: Context) -> dict[str, list[dict[str, Any]]]:
    """By arm, each fact's scores under its edit, or why it has none."""
    names = [name for name, method in METHODS.items() if method.encoders]
    arms: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for control in (None, *CONTROLS) if name == CONTROLLED else (None,):
            made: Sequence[Edited | EditError]
            try:
                editor = controlled_editor(context.editor(name), control)
                made = controlled_edits(editor, facts, perspective, control, context.following)
            except EditError as error:  # too shallow a model for this control
                made = [error for _ in facts]
            arms[f"{name} {control}" if control else name] = _scores(facts, made, context)
    return arms


def _scores(facts: Sequence[Fact], made: Sequence[Edited | EditError], context: Context) -> list[dict[str, Any]]:
    edits = [one.edit if isinstance(one, Edited) else one for one in made]
    return [
        {"values": numbers_of(score), **one.told()}
        if isinstance(one, Edited) and not isinstance(score, EditError)
        else {"reason": str(one)}
        for one, score in zip(made, scores_of(facts, edits, context), strict=True)
    ]
