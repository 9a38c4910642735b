"""The task `where`: ROME at every layer of one module and at each token, and the indirect effects of the same sites.

Covers one perspective of one module. All layers of a fact are optimised in one batch (editing/value_pass.py), so that
what an edit leaves alone is computed once. A record holds, by token, the scores of the edited model at each layer and
the fact's indirect effects at every layer of the model, one restored at a time; the effects are missing where the model
does not answer the fact's prompt. Tokens that are one in all of a fact's prompts are edited once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from artifact.editing.moments.files import Moments
from artifact.editing.objective import KEPT_PROMPT, fact_row
from artifact.editing.rome import RomeEdit, rome
from artifact.editing.site import FactToken, Module, after_words
from artifact.errors import ArtifactError, EditError
from artifact.evaluation.metrics import CaseScore
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Fact, View
from artifact.lm.load import LanguageModel
from artifact.plans.unit import Unit
from artifact.plans.where import edited_layers
from artifact.runs.context import SAMPLES, Context
from artifact.runs.editors import default_moments
from artifact.runs.record import Record
from artifact.runs.scored import numbers_of, scores_of
from artifact.tracing.trace import TraceSettings, answered, trace_all

_NO_RELATION = "the record has no relation fields, so it cannot be edited through the relation perspective"


@dataclass(frozen=True)
class _Settings:
    """A unit's settings: the module, the tokens, and the layers."""

    site: Module
    tokens: tuple[FactToken, ...]
    layers: tuple[int, ...]

    @classmethod
    def of(cls, unit: Unit, layers: int) -> "_Settings":
        tokens = cast(tuple[FactToken, ...], tuple(str(unit.option("tokens")).split()))
        return cls(cast(Module, unit.option("site")), tokens, edited_layers(unit, layers))


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """A record a fact, in order; one without the relation's fields is left out of the relation perspective."""
    usable = [fact for fact in facts if unit.perspective == "entity" or fact.relation is not None]
    made = {fact.case_id: Record(fact.case_id, "excluded", {"reason": _NO_RELATION}) for fact in facts}
    if usable:
        settings = _Settings.of(unit, context.model.decoder.layers)
        effects = _effects(unit, usable, settings, context)
        edited = _edited(unit, usable, settings, context)
        before = score_cases(context.model, usable, memory=context.memory)
        for fact, effect, tokens, score in zip(usable, effects, edited, before, strict=True):
            payload = {
                "layers": settings.layers,
                "before": _scored(score, unit),
                "tokens": tokens,
                "effects": effect,
                "read_by": after_words(settings.site, context.model.decoder.family.parallel),
            }
            made[fact.case_id] = Record(fact.case_id, "done", payload)
    return [made[fact.case_id] for fact in facts]


def _edited(
    unit: Unit, facts: Sequence[Fact], settings: _Settings, context: Context
) -> list[dict[FactToken, dict[str, Any]]]:
    """By fact and token: the edited model's scores at each layer, or that the token is the same as another."""
    editor = context.editor("rome")
    moments = site_moments(context, settings.site, settings.layers)
    found: list[dict[FactToken, dict[str, Any]]] = [{} for _ in facts]
    for token in settings.tokens:
        left = []
        for fact, tokens in zip(facts, found, strict=True):
            same = next((one for one in tokens if _same(context.model, fact.view(unit.perspective), one, token)), None)
            if same is None:
                left.append((fact, tokens))
            else:
                tokens[token] = {"same_as": same}
        if not left:
            continue
        hparams = msgspec.structs.replace(editor.hparams, site=settings.site, fact_token=token)
        places = [(fact, layer) for fact, _ in left for layer in settings.layers]
        edits = rome(
            context.model,
            [fact.view(unit.perspective) for fact, _ in places],
            hparams,
            editor.prefixes,
            moments,
            editor.protocol,
            context.memory,
            layers=[layer for _, layer in places],
        )
        changes = [one.edit if isinstance(one, RomeEdit) else one for one in edits]
        scores = scores_of([fact for fact, _ in places], changes, context)
        told = (_told(edit, score, unit) for edit, score in zip(edits, scores, strict=True))
        for _, tokens in left:
            tokens[token] = {"layers": [next(told) for _ in settings.layers]}
    return found


def _told(edit: RomeEdit | EditError, score: CaseScore | EditError, unit: Unit) -> dict[str, Any]:
    if isinstance(edit, EditError) or isinstance(score, EditError):
        return {"reason": str(edit)}
    return {"norm": edit.norm, "loss": edit.losses[-1], "steps": len(edit.losses), **_scored(score, unit)}


def _scored(score: CaseScore, unit: Unit) -> dict[str, Any]:
    """A case's numbers, and the mean probability of what the edit writes at its own prompt."""
    own = score.views[unit.perspective].prompts["reliability"]
    written = sum(math.exp(-prompt.target_new) for prompt in own) / len(own)
    return {"values": numbers_of(score), "written": written}


def _same(model: LanguageModel, view: View, one: FactToken, other: FactToken) -> bool:
    """Whether two tokens are one in all prompts of a view's edit."""
    prompts = (view.template, view.removal or view.template, KEPT_PROMPT)
    rows = [[fact_row(model, text, view.subject, token=token) for text in prompts] for token in (one, other)]
    return rows[0] == rows[1]


def _effects(
    unit: Unit, facts: Sequence[Fact], settings: _Settings, context: Context
) -> list[dict[str, list[float]] | None]:
    """By fact: each token's indirect effect of the module at every layer of the model, in probability; None where the
    model does not answer the prompt, or it cannot be traced."""
    statements = [fact.statement for fact in facts]
    traced = TraceSettings(
        context.noise_level,  # all tokens but the subject's are corrupted, not the words of the authors' file
        kind=settings.site,
        window=1,
        samples=SAMPLES,
        perspective=unit.perspective,
    )
    right = answered(context.model, statements, context.memory)
    known = [number for number, own in enumerate(right) if own]
    found: list[dict[str, list[float]] | None] = [None] * len(facts)
    places = [_places(context.model, facts[number], settings.tokens) for number in known]
    asked, only = [statements[number] for number in known], [[*at.values()] for at in places]
    traces = trace_all(context.model, asked, traced, context.memory, only=only)
    for number, at, trace in zip(known, places, traces, strict=True):
        if not isinstance(trace, ArtifactError):
            found[number] = {
                one: [score - trace.corrupted for score in trace.scores[place]] for one, place in at.items()
            }
    return found


def _places(model: LanguageModel, fact: Fact, tokens: Sequence[FactToken]) -> dict[FactToken, int]:
    """The tokens' positions in the fact's own prompt; none where it has no such token, and then it has no trace."""
    try:
        return {one: fact_row(model, fact.template, fact.subject, token=one).lookup for one in tokens}
    except ArtifactError:
        return {}


def site_moments(context: Context, site: Module, layers: Sequence[int]) -> Moments:
    """Second moments of a module at these layers, computed once a run from the texts that the run's own come from."""
    if site == "mlp" and context.moments_folder is not None:
        return context.moments
    key = f"moments {site}"
    known, kept = context.kept.get(key, ((), None))
    if kept is None or not set(layers) <= set(known):
        known = sorted({*known, *layers})
        kept = default_moments(context.model, known, context.memory, site, context.of_text)
        context.kept[key] = known, kept
    return cast(Moments, kept)
