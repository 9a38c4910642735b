"""What the plan `multiverse` measured: one specification curve for each finding of the tables and figures.

Covers gathering each specification's differences, fact by fact, with the predicates of expected/paper.json. A claim of
several differences is represented by the one that is least sure: its smallest mean over its standard error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.plans.multiverse import own_window
from artifact.reporting.cells import COUNT, Cell, Grid, Line, Scale
from artifact.reporting.expected import Claim, load_expected
from artifact.reporting.figure_claims import TracedEffects, differences
from artifact.reporting.findings import Findings, Quantity
from artifact.reporting.findings.edit_multiverse import Edits, edit_specifications
from artifact.reporting.intervals import Series
from artifact.reporting.multiverse import Curve, Specification, curve_of, least_sure
from artifact.runs.store import Store
from artifact.sizes import count_of
from artifact.terminal import without_quotes
from artifact.tracing.averages import Traces, traces_of
from artifact.tracing.choices import (
    CORRUPTED,
    DIRECTIONS,
    METRICS,
    OWN,
    RELATION_SPANS,
    Choice,
    NoSpan,
    RelationSpan,
    windows_of,
)
from artifact.tracing.kinds import TRACE_KINDS

_FORMS = ("as it is", "normalised")
_SHARE = Scale(0, 100)
_LEAST_WHOLE = 0.1
"""Facts whose total effect is a smaller share of the mean total effect have no normalised effects."""
_SMALL = "normalised effects: the total effect is below a tenth of the mean one"


class _Records:
    """The records of a run's units, and the traces of any choice and metric in them."""

    def __init__(self, store: Store) -> None:
        info = store.info()
        self.layers, self.own_window = info.layers, own_window(info.model, info.layers)
        self._records: dict[tuple[str, Perspective], list[tuple[int, Mapping[str, Any]]]] = {}
        self.without: dict[tuple[Perspective, str], set[int]] = {}
        for unit in info.plan.units:
            if unit.task == "multiverse":
                done = [record for record in store.records(unit) if record.status == "done"]
                own = [(record.case_id, record.payload["traces"]) for record in done]
                self._records[unit.trace_kind.name, unit.perspective] = own
                for record in done:
                    for reason in record.payload["without"]:
                        self.without.setdefault((unit.perspective, _plain(reason)), set()).add(record.case_id)
        self._known: dict[tuple[Any, ...], Traces | None] = {}

    def __bool__(self) -> bool:
        return any(self._records.values())

    @cached_property
    def spans(self) -> list[RelationSpan]:
        """The relation spans, without one that corrupts the same tokens of every fact as one before it."""
        kept: list[RelationSpan] = []
        for span in RELATION_SPANS:
            if not any(self._copies(span, other) for other in kept):
                kept.append(span)
        return kept

    def _copies(self, span: RelationSpan, other: RelationSpan) -> bool:
        """Whether every trace of one span is the other's."""
        every = [traces for records in self._records.values() for _, traces in records]
        own = [(traces, key) for traces in every for key in traces if key.split("|")[2] == span]
        return bool(own) and all(
            traces[key] == traces.get(key.replace(f"|{span}|", f"|{other}|")) for traces, key in own
        )

    def traces(self, perspective: Perspective, choice: Choice, metric: int, normalised: bool) -> Traces | None:
        """The traces of one choice in one metric; None without a fact."""
        key = choice.key
        asked = (perspective, key, metric, normalised)
        if asked not in self._known:
            found = [
                (case, traces[key][metric])
                for case, traces in self._records.get((choice.kind, perspective), ())
                if key in traces
            ]
            self._known[asked] = self._made(perspective, found, normalised) if found else None
        return self._known[asked]

    def _made(
        self, perspective: Perspective, found: Sequence[tuple[int, list[float | None]]], normalised: bool
    ) -> Traces | None:
        cases_F = np.array([case for case, _ in found])
        numbers_FX = np.array([row for _, row in found], dtype=float)
        traces = traces_of(perspective, cases_F, numbers_FX)
        if not normalised:
            return traces
        # A share of next to nothing is a huge number, and a share of less than nothing has the wrong sign.
        whole_F = traces.clean_F - traces.corrupted_F
        kept_F = whole_F > max(1e-9, _LEAST_WHOLE * whole_F.mean())
        if not kept_F.all():
            self.without.setdefault((perspective, _SMALL), set()).update(cases_F[~kept_F].tolist())
        if not kept_F.any():
            return None
        whole_F = whole_F[kept_F]
        return Traces(
            perspective,
            cases_F[kept_F],
            np.ones(len(whole_F)),
            np.zeros(len(whole_F)),
            traces.shared_last_F[kept_F],
            traces.tokens_FR[kept_F],
            traces.effects_FRL[kept_F] / whole_F[:, None, None],
        )


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it has no finished fact."""
    plan, records = store.info().plan, _Records(store)
    if not (records or any(unit.correct for unit in plan.units)):
        return None
    claims = [claim for claim in load_expected().claims if claim.effects] if records else []
    relations = store.info().relations
    edits = Edits(store)
    found = [curve_of(finding, edited, relations) for finding, edited in edit_specifications(edits).items()]
    for claim in claims:
        every = [*_specifications(claim, records)]
        copies = len(every) // len(records.spans) * (len(RELATION_SPANS) - len(records.spans)) if _spans(claim) else 0
        found.append(curve_of(claim.id, every, relations, copies))
    curves = [curve for curve in found if curve is not None]
    quantities = {
        f"share of specifications that agree, {curve.finding}": Quantity(curve.share, _SHARE) for curve in curves
    }
    shown = "one curve a finding" if curves else ""
    grids = [*([_grid(curves, edits.undone)] if curves else []), *([_without_grid(records)] if records.without else [])]
    return Findings(quantities, tuple(grids), tuple(curves), shown)


def _spans(claim: Claim) -> bool:
    """Whether the claim is about relation traces, which have spans."""
    regions = (one for effect in claim.effects for one in (effect.region, effect.over) if one is not None)
    return any(region.perspective == "relation" for region in regions)


def _specifications(claim: Claim, records: _Records) -> Iterator[Specification]:
    """Every combination of the choices that the claim's traces depend on, with its differences."""
    kinds = {TRACE_KINDS[kind] for kind in claim.kinds}
    spans: Sequence[RelationSpan | NoSpan] = records.spans if _spans(claim) else ("",)
    windows = windows_of(records.layers, records.own_window) if any(kind.windowed for kind in kinds) else [0]
    every = product(CORRUPTED, spans, windows, DIRECTIONS, enumerate(METRICS), _FORMS)
    for corruption, span, window, direction, (at, metric), form in every:
        traces = {}
        for kind, perspective in product(kinds, PERSPECTIVES):
            own_span: RelationSpan | NoSpan = span if perspective == "relation" else ""
            own_window = window if kind.windowed else 0
            choice = Choice(kind.name, corruption, own_span, own_window, direction)
            one = records.traces(perspective, choice, at, form != _FORMS[0])
            if one is not None:
                traces[kind.name, perspective] = one
        found = [differences(effect, TracedEffects(traces)) for effect in claim.effects]
        least = least_sure(found) or Series(np.array([], dtype=np.int64), np.array([]))  # such as facts without a donor
        named = {
            "corruption": corruption,
            "span": span,
            "window": count_of(window, "layer") if window else "",
        }
        named |= {"direction": direction, "metric": metric, "form": form}
        own = all(named[choice] == level for choice, level in OWN.items() if named[choice])
        own = own and form == _FORMS[0] and window in (0, records.own_window)
        yield Specification({choice: level for choice, level in named.items() if level}, least, own, len(found))


def _plain(reason: str) -> str:
    """A reason without the fact's number and words, which would make each a kind of its own, and without the remedy."""
    return without_quotes(re.sub(r"^case \d+: ", "", reason)).partition(";")[0]


def _without_grid(records: _Records) -> Grid:
    """How many facts some of the traces left out, by reason."""
    lines = [
        Line((perspective, reason), (Cell(float(len(cases)), scale=COUNT),))
        for (perspective, reason), cases in sorted(
            records.without.items(), key=lambda item: (item[0][0], -len(item[1]))
        )
    ]
    caption = (
        "Facts that at least one way to trace leaves out, by reason: one way is enough to be counted here. Their other "
        "traces are on the curves."
    )
    return Grid("multiverse-left-out", "Facts left out", caption, ("perspective", "reason"), ("facts",), tuple(lines))


def _grid(curves: Sequence[Curve], undone: Sequence[str]) -> Grid:
    """A column a finding: there are more choices than findings."""

    def line(of: str, name: str, values: Iterable[float | None], scale: Scale) -> Line:
        return Line((of, name), tuple(Cell(value, scale=scale) for value in values))

    counts: Mapping[str, Callable[[Curve], int]] = {
        "all": lambda curve: len(curve.entries),
        "agree": lambda curve: curve.agree,
        "contradict": lambda curve: curve.contradict,
    }
    lines = [line("specifications", name, map(float, map(count, curves)), COUNT) for name, count in counts.items()]
    names = dict.fromkeys(choice for curve in curves for choice in curve.explained)
    lines += [line("explained by", name, [curve.explained.get(name) for curve in curves], _SHARE) for name in names]
    caption = (
        "For each finding: specifications, how many agree with it and how many contradict it (the 95% "
        "interval lies above or below zero), and how much of the spread of the estimates each choice explains (eta "
        "squared, percent)."
    ) + "".join(f" {curve.finding}: {'; '.join(curve.left_out)}, left out." for curve in curves if curve.left_out)
    if undone:
        caption += f" Edits that were undone before the scoring are no specifications: {', '.join(undone)}."
    findings = tuple(curve.finding for curve in curves)
    return Grid("multiverse", "Multiverse", caption, ("of", "number"), findings, tuple(lines))
