"""The verdict: each published cell and claim with its status, how many of each, and the exit code that follows.

Covers the claims' predicates and verdict.json's content. A claim is judged model by model, once all its cells were
measured. The second source is shown beside the run and decides nothing. tables.py aggregates cases.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec

from artifact.editing.methods import printed_name
from artifact.editing.protocol import corrected_switches, protocol_words
from artifact.errors import RunError
from artifact.reporting.checks import JudgedCheck, check_json, judge_check
from artifact.reporting.equivalence import Tested
from artifact.reporting.expected import Bound, Claim, Expected, Order, PublishedCell, load_expected
from artifact.reporting.figure_claims import TracedEffects, effect_tests, figure_claim, traced_effects
from artifact.reporting.findings import Findings, findings_of
from artifact.reporting.questions import JudgedQuestion, answered, load_questions, questions_json
from artifact.reporting.tables import (
    CellState,
    JudgedCell,
    JudgedRow,
    MeasuredRow,
    Reason,
    counted_reasons,
    judged_rows,
    own_rows,
)
from artifact.runs.describe import RunInfo
from artifact.runs.seals import Checked
from artifact.runs.store import Store

STATES: tuple[CellState, ...] = ("reproduced", "outside tolerance", "skipped", "not run")
_DIGITS = 6
_RUN_FIELDS = (
    *("model", "revision", "weights_sha256", "protocol", "data_source", "data_sha256"),
    *("evidence", "evidence_note", "limit"),
)
_CLAIM_FIELDS = ("id", "sentence", "paper", "where", "predicate")
_CELL_FIELDS = (
    *("id", "paper", "where", "taken_from", "facts", "model", "model_revision", "method", "edited"),
    *("metric", "unit", "sidedness", "notes", "value"),
)
"""What verdict.json repeats of a run's description, a claim and a published value."""


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its status in words, model by model where they differ, and by how much it holds or fails.

    `states` are those of the models for which it was judged: holds, does not hold or undecided.
    """

    claim: Claim
    status: str
    margin: str = ""
    states: tuple[str, ...] = ()
    tests: tuple[tuple[str, Tested], ...] = ()
    """Of a claim about the figures: by model, its differences held against zero; they decide nothing."""


@dataclass(frozen=True)
class _Condition:
    """One inequality of a claim about numbers: points it holds by (negative: fails by), and the numbers in words."""

    points: float
    words: str
    strict: bool = False

    @property
    def holds(self) -> bool:
        return self.points > 0 if self.strict else self.points >= 0


@dataclass(frozen=True)
class Verdict:
    """Everything runs say about the paper. `paper` and `second_source` are the published rows with judged cells.

    `checks` are judged counts of the data, `journals` what the checksums say of each run's records. `questions` are
    those beyond the paper, which decide nothing of the verdict.
    """

    infos: tuple[RunInfo, ...]
    paper: tuple[JudgedRow, ...]
    second_source: tuple[JudgedRow, ...]
    claims: tuple[JudgedClaim, ...]
    checks: tuple[JudgedCheck, ...] = ()
    journals: tuple[Checked, ...] = ()
    questions: tuple[JudgedQuestion, ...] = ()

    @property
    def damage(self) -> str:
        """What is damaged in the runs' journals and left out; empty where nothing is."""
        return "; ".join(journal.damage for journal in self.journals if journal.damage)

    @property
    def cells(self) -> tuple[JudgedCell, ...]:
        """The paper's cells in its order."""
        return tuple(cell for row in self.paper for cell in row.cells)

    @property
    def counts(self) -> dict[str, int]:
        """How many of the paper's cells have each state."""
        counted = Counter(cell.state for cell in self.cells)
        return {state: counted[state] for state in STATES}

    @property
    def exit_code(self) -> int:
        """2 for a damaged journal, 1 if a compared value or count of the paper is outside its tolerance, else 0."""
        if self.damage:
            return 2
        return 1 if self.counts["outside tolerance"] or self._checks_outside else 0

    @property
    def _checks_outside(self) -> list[JudgedCheck]:
        return [judged for judged in self.checks if judged.state == "outside tolerance"]

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        return f"{self._compared} The journal is {self.damage}." if self.damage else self._compared

    @property
    def _compared(self) -> str:
        counts, total = self.counts, len(self.cells)
        compared = counts["reproduced"] + counts["outside tolerance"]
        unmet = "".join(f" {judged.check.model}: {judged.status}." for judged in self._checks_outside)
        words = dict.fromkeys(protocol_words(info.protocol, info.switches) for info in self.infos)
        followed = "" if list(words) == ["released"] else f" Protocol: {'; '.join(words)}."
        if not compared:
            models = dict.fromkeys(cell.cell.model for cell in self.cells)
            if any(info.evidence and info.model in models for info in self.infos):
                return f"no published value was compared: all {total} are of edits, and none was run.{unmet}{followed}"
            needed = f"its {total} published values need {', '.join(models)}"
            return f"nothing was compared with the paper: {needed}.{unmet}{followed}"
        skipped = f"{counts['skipped']} skipped, " if counts["skipped"] else ""
        outside = counts["outside tolerance"]
        partial = " Part of the facts was run, so intervals are judged." if any(c.partial for c in self.cells) else ""
        return (
            f"{compared} of {total} published values were compared: {counts['reproduced']} reproduced, {outside} "
            f"outside tolerance; {skipped}{counts['not run']} not run.{partial}{unmet}{followed}"
        )


@dataclass(frozen=True)
class MeasuredRun:
    """One run as reports use it: its store and description, the rows of its edits, and its traces."""

    store: Store
    info: RunInfo
    rows: tuple[MeasuredRow, ...]
    traced: TracedEffects
    findings: Mapping[str, Findings] = field(default_factory=dict)
    """What it measured for the questions beyond the paper, by plan."""

    @cached_property
    def reasons(self) -> list[Reason]:
        """Why cases, or parts of a task's cases, do not count."""
        return counted_reasons(self.store)

    @property
    def begun(self) -> tuple[MeasuredRow, ...]:
        """The rows that its tables and figures show: those of which a case is recorded."""
        return tuple(row for row in self.rows if row.begun)


def measured_run(store: Store) -> MeasuredRun:
    """A run with everything averaged that the verdict and the page need."""
    return MeasuredRun(store, store.info(), tuple(own_rows(store)), traced_effects(store), findings_of(store))


def verdict_of(*stores: Store) -> Verdict:
    """The verdict on stored runs, one a model, against the published values that come with the package."""
    return reach_verdict(load_expected(), [measured_run(store) for store in stores])


def reach_verdict(expected: Expected, runs: Sequence[MeasuredRun]) -> Verdict:
    """Judge every published cell and claim against the runs' rows and traces; RunError for two runs of one model."""
    by_model: dict[str, MeasuredRun] = {}
    for run in runs:
        if run.info.model in by_model:
            folders = f"{by_model[run.info.model].store.folder} and {run.store.folder}"
            raise RunError(f"{folders}: are both runs of {run.info.model}; name one of them, or move the other away")
        by_model[run.info.model] = run
    rows = {model: (run.info, run.rows) for model, run in by_model.items()}
    paper = tuple(judged_rows(expected.cells, rows))
    cells = {cell.cell.id: cell for row in paper for cell in row.cells}
    return Verdict(
        infos=tuple(run.info for run in runs),
        paper=paper,
        second_source=tuple(judged_rows(expected.second_source, rows)),
        claims=_with_tests([judge_claim(claim, cells, by_model) for claim in expected.claims], by_model),
        checks=tuple(
            judge_check(check, {model: (run.info, run.store) for model, run in by_model.items()})
            for check in expected.checks
        ),
        journals=tuple(run.store.checked() for run in runs),
        questions=answered(load_questions(), {model: run.findings for model, run in by_model.items()}),
    )


def judge_claim(claim: Claim, cells: Mapping[str, JudgedCell], runs: Mapping[str, MeasuredRun]) -> JudgedClaim:
    """The claim with its status in words.

    A claim of the tables "holds" or "does not hold" for each model all of whose cells were measured, and its margin
    names the inequality that is closest to failing, or fails by most; a claim of the figures by the intervals of its
    effects, where the traces are there (figure_claims.py).
    """
    if claim.kinds:
        return _judge_figures(claim, runs)
    judged, margins, missing, states = [], [], [], []
    for model in claim.models:
        needed = [cells[name] for name in claim.cells if cells[name].cell.model == model]
        lacking = [cell for cell in needed if cell.measured is None]
        if lacking:
            missing.append(_lacking(model, lacking, runs.get(model)))
            continue
        conditions = [
            *(one for bound in claim.bounds for one in _bound_conditions(bound, needed)),
            *(one for order in claim.orders for one in _order_conditions(order, needed)),
        ]
        partial = " (partial)" if any(cell.partial for cell in needed) else ""
        states.append("holds" if all(condition.holds for condition in conditions) else "does not hold")
        judged.append(f"{states[-1]} for {model}{partial}")
        worst = min(conditions, key=lambda condition: condition.points)
        word = "holds by" if worst.holds else "fails by"
        margins.append(f"{model}: {worst.words}: {word} {abs(worst.points):.2f} points")
    if missing:
        judged.append(f"not run: needs {', '.join(missing)}")
    return JudgedClaim(claim, "; ".join(judged), "; ".join(margins), tuple(states))


def _with_tests(judged: Sequence[JudgedClaim], runs: Mapping[str, MeasuredRun]) -> tuple[JudgedClaim, ...]:
    """The claims with their differences held against zero, for the models that they speak of, in runs that count."""
    found: dict[str, list[tuple[str, Tested]]] = {one.claim.id: [] for one in judged}
    for model, run in runs.items():
        asked = [one.claim for one in judged if model in one.claim.models and run.info.evidence]
        for test in effect_tests(asked, run.traced):
            found[test.of].append((model, test))
    return tuple(replace(one, tests=tuple(found[one.claim.id])) for one in judged)


def verdict_json(verdict: Verdict, elsewhere: Sequence[dict[str, str]] = ()) -> bytes:
    """verdict.json: sorted keys, one stable order of entries, no times, percent rounded to six places; with what other
    models say of the claims, where there are such (elsewhere.py).
    """
    content = {
        "runs": [
            {
                "damaged": journal.harmed,
                "unsealed": journal.unsealed,
                "plan": info.plan.name,
                "corrected": corrected_switches(info.protocol, info.switches),
                **{name: getattr(info, name) for name in _RUN_FIELDS},
            }
            for info, journal in zip(verdict.infos, verdict.journals, strict=True)
        ],
        "verdict": verdict.sentence,
        "exit_code": verdict.exit_code,
        "counts": verdict.counts,
        "cells": [_cell_json(cell) for cell in verdict.cells],
        "claims": [
            {
                **{name: getattr(judged.claim, name) for name in _CLAIM_FIELDS},
                "status": judged.status,
                "margin": judged.margin,
                "statistics": [{"model": model, "condition": one.name, **one.json} for model, one in judged.tests],
            }
            for judged in verdict.claims
        ],
        "checks": check_json(verdict.checks),
        "questions": questions_json(verdict.questions),
        "second_source": [_cell_json(cell) for row in verdict.second_source for cell in row.cells],
        **({"elsewhere": list(elsewhere)} if elsewhere else {}),
    }
    return msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"


def _judge_figures(claim: Claim, runs: Mapping[str, MeasuredRun]) -> JudgedClaim:
    judged, lacking, missing = [], [], []
    for model in claim.models:
        run = runs.get(model)
        if run is None or not run.info.evidence:
            missing.append(model)
        elif traces := missing_traces(claim, run):
            lacking.append(f"{model} with {traces}")
        else:
            judged.append((model, figure_claim(claim, run.traced)))
    words = [found.sentence(model) for model, found in judged]
    if missing and not judged and not lacking:
        words = [f"not run: needs {', '.join(missing)} with traces of {', '.join(claim.kinds)}"]
    elif missing or lacking:
        words.append(f"not run: needs {', '.join([*missing, *lacking])}")
    return JudgedClaim(claim, "; ".join(words), states=tuple(found.word for _, found in judged))


def missing_traces(claim: Claim, run: MeasuredRun) -> str:
    """The traces that a claim about the figures still needs of a run, in words; empty where all are there.

    Says so where they were computed and their facts were left out, as of a model that does not know the answers.
    """
    kinds, counts = [kind for kind in claim.kinds if kind not in run.traced.kinds], run.store.counts()
    of_these = [unit.name for unit in run.info.plan.units if unit.does == "trace" and unit.trace_kind.name in kinds]
    lost = sum(counts[name][state] for name in of_these if name in counts for state in ("excluded", "failed"))
    words = f"traces of {', '.join(kinds)}" if kinds else ""
    return f"{words}; {lost:,} were excluded or failed" if lost else words


def _lacking(model: str, cells: Sequence[JudgedCell], run: MeasuredRun | None) -> str:
    if run is None:
        return model
    if not run.info.evidence:
        return cells[0].needs
    methods = dict.fromkeys(printed_name(cell.cell.method) for cell in cells)
    return f"{model} ({', '.join(methods)})"


def _bound_conditions(bound: Bound, cells: Sequence[JudgedCell]) -> Iterator[_Condition]:
    for judged in cells:
        cell, measured = judged.cell, judged.measured
        if (cell.edited, cell.perspective, cell.group) != (
            bound.edited,
            bound.perspective,
            bound.group,
        ) or measured is None:
            continue
        allowed = judged.tolerance.points
        low, high = bound.low - allowed, bound.high + allowed
        lowest, highest = (measured.low, measured.high) if judged.partial else (measured.mean, measured.mean)
        words = (
            f"{_column_name(cell)} {measured.mean:.2f}, claimed {bound.low:g} to {bound.high:g} (tolerance {allowed:g})"
        )
        yield _Condition(min(highest - low, high - lowest), words)


def _order_conditions(order: Order, cells: Sequence[JudgedCell]) -> Iterator[_Condition]:
    """Compared method by method, for the methods that both tables have."""
    sides: dict[str, dict[str | None, JudgedCell]] = {}
    for judged in cells:
        cell = judged.cell
        if (cell.perspective, cell.group) == (order.perspective, order.group) and judged.measured is not None:
            sides.setdefault(cell.method, {})[cell.edited] = judged
    for side in sides.values():
        if order.lower not in side or order.higher not in side:
            continue
        lower, higher = side[order.lower].measured, side[order.higher].measured
        assert lower is not None and higher is not None
        name = _column_name(side[order.lower].cell)
        words = f"{name} {lower.mean:.2f} after {order.lower} edits, {higher.mean:.2f} after {order.higher} edits"
        if order.disjoint:
            yield _Condition(higher.low - lower.high, f"{words} (between the 95% intervals)", strict=True)
        else:
            allowed = side[order.lower].tolerance.points
            yield _Condition(higher.mean + allowed - lower.mean, f"{words} (tolerance {allowed:g})")


def _column_name(cell: PublishedCell) -> str:
    return f"{printed_name(cell.method)} {cell.perspective} {cell.group}"


def _cell_json(judged: JudgedCell) -> dict[str, Any]:
    cell, measured = judged.cell, judged.measured
    return {
        **{name: getattr(cell, name) for name in _CELL_FIELDS},
        "column": f"{cell.perspective} {cell.group}",
        "tolerance": round(judged.tolerance.points, _DIGITS),
        "tolerance_reason": judged.tolerance.reason,
        "measured": None
        if measured is None
        else {
            **{name: round(getattr(measured, name), _DIGITS) for name in ("mean", "low", "high")},
            "n": measured.n,
            "difference": round(measured.mean - cell.value, _DIGITS),
        },
        "state": judged.state,
        "status": judged.status,
        "statistics": judged.tested and judged.tested.json,
    }
