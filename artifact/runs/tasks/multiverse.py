"""The task `multiverse`: one fact traced in every way of the grid (tracing/choices.py), one kind and perspective.

A record holds, for each way, the numbers that averages need (tracing/averages.py), a row a metric; and how often a way
had no number, by reason: a fact without a donor, a prompt without a template. Restored are the tokens that the claims
compare (plans/multiverse.py); other roles have no number. Relation spans that corrupt the same tokens are traced once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from artifact.errors import ArtifactError, DoesNotFit, PromptError
from artifact.facts.fact import Fact, Perspective, Statement
from artifact.plans.multiverse import ROLES, own_window
from artifact.plans.unit import Unit
from artifact.runs.answered import failed, unanswered
from artifact.runs.context import SAMPLES, Context
from artifact.runs.record import Record
from artifact.tracing.averages import role_tokens, trace_numbers
from artifact.tracing.choices import CORRUPTED, METRICS, Choice, RelationSpan, choices
from artifact.tracing.corruption import corrupted_tokens, subject_tokens
from artifact.tracing.kinds import TRACE_KINDS
from artifact.tracing.replacement import MOST_DONORS, donor_ids, find_donors, mean_of
from artifact.tracing.trace import Trace, TraceSettings, trace_all

_DIGITS = 7
"""Significant digits of the numbers that are kept."""
_Traced = Trace | ArtifactError


def compute(unit: Unit, facts: Sequence[Fact], context: Context) -> list[Record]:
    """A record a fact, in order; one that the model does not answer is left out."""
    statements = [fact.statement for fact in facts]
    records = unanswered(context.model, statements, context.memory)
    left = [one for one in statements if one.case_id not in records]
    every = _Every(unit.perspective, left, context)
    rows: dict[int, dict[str, Any]] = {one.case_id: {} for one in left}
    without: dict[int, Counter[str]] = {one.case_id: Counter() for one in left}
    layers = context.model.decoder.layers
    own = own_window(context.model.name, layers)
    for choice in choices(unit.trace_kind, unit.perspective, layers, own):
        for one, traced in zip(left, every.traced(choice), strict=True):
            if isinstance(traced, DoesNotFit):
                records[one.case_id] = failed(one.case_id, traced)
            elif isinstance(traced, ArtifactError):
                without[one.case_id][str(traced)] += 1
            else:
                rows[one.case_id][choice.key] = _rows(unit.perspective, choice, traced)
    for case, found in rows.items():
        records[case] = records.get(case) or Record(
            case, "done", {"layers": layers, "traces": found, "without": dict(without[case])}
        )
    return [records[fact.case_id] for fact in facts]


class _Every:
    """Statements traced in one way after the other; what two ways share is computed once."""

    def __init__(self, perspective: Perspective, statements: Sequence[Statement], context: Context) -> None:
        self._perspective, self._statements, self._context = perspective, statements, context
        self._found: dict[tuple[Any, ...], _Traced] = {}
        data = [fact.statement for fact in context.inputs.every.facts]
        kept = context.kept
        if (key := f"multiverse donors {perspective}") not in kept:
            found = find_donors(context.model.tokens, data, perspective, most=None)
            kept[key] = {one.case_id: donors for one, donors in zip(data, found, strict=True)}
        self._donors: Mapping[int, tuple[str, ...] | str] = kept[key]
        self._data = data

    def traced(self, choice: Choice) -> list[_Traced]:
        """Every statement's trace in this way, or why it has none."""
        spans = [self._span(one, choice) for one in self._statements]
        way = (choice.kind, choice.corruption, choice.window, choice.direction)
        # A mean is that of its span's tokens, which other spans do not share.
        own = choice.span if CORRUPTED[choice.corruption][0] == "mean" else ""
        keys = [(one.case_id, span, own, *way) for one, span in zip(self._statements, spans, strict=True)]
        new = [at for at, key in enumerate(keys) if isinstance(spans[at], tuple) and key not in self._found]
        if new:
            found = self._trace(choice, [self._statements[at] for at in new])
            self._found |= {keys[at]: traced for at, traced in zip(new, found, strict=True)}
        return [
            span if isinstance(span, ArtifactError) else self._found[key] for span, key in zip(spans, keys, strict=True)
        ]

    def _span(self, one: Statement, choice: Choice) -> tuple[int, ...] | ArtifactError:
        try:
            encoded = self._context.model.tokens.encode(one.prompt)
            return corrupted_tokens(encoded, one, self._perspective, _span_word(choice))
        except ArtifactError as error:
            return error

    def _trace(self, choice: Choice, statements: Sequence[Statement]) -> list[_Traced]:
        context, kind = self._context, TRACE_KINDS[choice.kind]
        corruption, sigmas = CORRUPTED[choice.corruption]
        only = [self._restored(one, choice) for one in statements]
        settings = TraceSettings(
            context.noise_level * sigmas / 3,
            kind=kind.kind,
            window=choice.window or 1,
            samples=SAMPLES,
            sever=kind.sever,
            fresh_noise=context.protocol.severed_fresh_noise,
            perspective=self._perspective,
            relation_span=_span_word(choice),
            corruption=corruption,
            direction=choice.direction,
        )
        mean_D = self._mean(_span_word(choice)) if corruption == "mean" else None
        if corruption != "replace":
            return trace_all(context.model, statements, settings, context.memory, mean_D=mean_D, only=only)
        donors = [self._donors_within(one, _span_word(choice)) for one in statements]
        prompts = [() if isinstance(one, str) else one for one in donors]
        found = trace_all(context.model, statements, settings, context.memory, prompts, only=only)
        return [
            ArtifactError(donor) if isinstance(donor, str) else one for donor, one in zip(donors, found, strict=True)
        ]

    def _restored(self, one: Statement, choice: Choice) -> set[int]:
        """The positions of the tokens that the claims compare."""
        encoded = self._context.model.tokens.encode(one.prompt)
        span = corrupted_tokens(encoded, one, self._perspective, _span_word(choice))
        subject = subject_tokens(encoded, one)
        by_role = role_tokens(self._perspective, len(encoded.ids), subject, span, encoded.mask)
        return {at for role in ROLES[choice.kind, self._perspective] for at in by_role[role]}

    def _donors_within(self, one: Statement, span: RelationSpan) -> tuple[str, ...] | str:
        """The first of the statement's donors that differ from it in the span alone, or why it has none."""
        donors = self._donors.get(one.case_id, "no donor: the statement is not one of the data's")
        if isinstance(donors, str):
            return donors
        tokens = self._context.model.tokens
        encoded = tokens.encode(one.prompt)
        corrupted = corrupted_tokens(encoded, one, self._perspective, span)
        kept: list[str] = []
        for donor in donors:
            if len(kept) == MOST_DONORS:
                break
            with suppress(PromptError):
                donor_ids(tokens, encoded, corrupted, donor)
                kept.append(donor)
        return tuple(kept) or "no donor: none differs in the corrupted tokens alone"

    def _mean(self, span: RelationSpan) -> Any:
        key = f"multiverse mean {self._perspective} {span}"
        if key not in self._context.kept:
            self._context.kept[key] = mean_of(self._context.model, self._data, self._perspective, span)
        return self._context.kept[key]


def _span_word(choice: Choice) -> RelationSpan:
    return choice.span or "all"


def _rows(perspective: Perspective, choice: Choice, traced: Trace) -> list[list[float | None]]:
    """A row a metric of what averages need; in the direction `corrupt` an effect is what the clean run loses."""
    rows = []
    for metric in METRICS:
        one = traced.metrics[metric]
        scores = np.array(one.scores)
        if choice.direction == "corrupt":
            scores = one.clean + one.corrupted - scores
        trace = {
            "tokens": traced.tokens,
            "subject": traced.subject,
            "span": traced.span,
            "clean": one.clean,
            "corrupted": one.corrupted,
            "scores": scores,
            "mask": traced.mask,
        }
        row = trace_numbers(perspective, trace)
        rows.append([None if np.isnan(x) else float(f"{x:.{_DIGITS}g}") for x in row])
    return rows
