"""What a model without published values says of the paper's claims: holds, does not hold, or undecided.

Covers T1 to T3 and F1 to F4, read by the predicates of expected/ as they stand there, on this run's own rows and
traces. No tolerance of a published value enters: an interval decides alone. A bound holds where the 95% interval of
every one of the paper's methods lies within it, and fails where one lies outside. An order is judged by the paired
difference over facts. Rows whose edit was taken back before scoring are left out. These answers are kept apart from the
verdict on the paper.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from artifact.evaluation.metrics import Column, Metric
from artifact.facts.fact import PERSPECTIVES
from artifact.plans.paper import PAPER_METHODS
from artifact.reporting.expected import Bound, Claim, Order
from artifact.reporting.figure_claims import figure_claim
from artifact.reporting.intervals import Estimate, paired_change
from artifact.reporting.tables import MeasuredRow, scored_cases
from artifact.reporting.verdict import MeasuredRun, missing_traces
from artifact.sources.catalogue import WORLDS

FEWEST = 10
"""Facts below which a claim is undecided, whatever the interval: of so few it says little."""
_FEW = f"; fewer than {FEWEST} facts decide nothing"
_PAPERS = {method for methods in PAPER_METHODS.values() for method in methods}
State = Literal["holds", "does not hold", "undecided", "not run"]


@dataclass(frozen=True)
class Answer:
    """A claim's answer on a model: the state, and the number that decides it with its 95% interval, in words."""

    claim: Claim
    model: str
    state: State
    figures: str

    @property
    def status(self) -> str:
        """The state with the model, such as "holds on smollm2"."""
        return self.state if self.state == "not run" else f"{self.state} on {self.model}"

    @property
    def sentence(self) -> str:
        """The answer in a line."""
        return f"{self.claim.id} {self.status}" + (f" ({self.figures})" if self.figures else "")


@dataclass(frozen=True)
class _Part:
    """One inequality: its state, how far it is from the other side in its unit (negative: it fails by), in words."""

    state: State
    distance: float
    words: str


def claims_elsewhere(claims: Sequence[Claim], run: MeasuredRun) -> tuple[Answer, ...]:
    """The claims' answers on a real model that the paper has no values for; empty for any other run."""
    info = run.info
    if info.evidence or info.model in WORLDS or any(info.model in claim.models for claim in claims):
        return ()
    return tuple(_answer(claim, run) for claim in claims)


def elsewhere_json(answers: Sequence[Answer]) -> list[dict[str, str]]:
    """The answers as verdict.json holds them."""
    return [
        {"id": one.claim.id, "model": one.model, "state": one.state, "figures": one.figures, "status": one.status}
        for one in answers
    ]


def _answer(claim: Claim, run: MeasuredRun) -> Answer:
    model = run.info.model
    if claim.kinds:
        if missing := missing_traces(claim, run):
            return Answer(claim, model, "not run", f"needs {missing}")
        found = figure_claim(claim, run.traced)
        few = any(len(run.traced.traces[kind, one].cases_F) < FEWEST for kind in claim.kinds for one in PERSPECTIVES)
        return Answer(
            claim, model, "undecided" if few else _state(found.word), (found.figures or found.why) + _FEW * few
        )
    conditions: list[tuple[Bound | Order, tuple[_Part, ...]]] = [
        *((bound, tuple(_bound(bound, run.rows))) for bound in claim.bounds),
        *((order, tuple(_order(order, run))) for order in claim.orders),
    ]
    parts = [part for _, found in conditions for part in found]
    states = [part.state for part in parts]
    state: State = "does not hold" if "does not hold" in states else "undecided" if "undecided" in states else "holds"
    # A condition that was not measured may fail, too.
    if state != "does not hold" and (unmeasured := [one for one, found in conditions if not found]):
        return Answer(claim, model, "not run", _needs(unmeasured, run.rows))
    worst = min((part for part in parts if part.state == state), key=lambda part: part.distance)
    return Answer(claim, model, state, worst.words)


def _needs(unmeasured: Sequence[Bound | Order], rows: Sequence[MeasuredRow]) -> str:
    """What would have to be run for these conditions, in words."""
    edited = {row.edited for row in rows if row.method in _PAPERS and not (row.undone or row.control)}
    wanted = [each for one in unmeasured for each in ((one.edited,) if isinstance(one, Bound) else PERSPECTIVES)]
    if missing := [one for one in PERSPECTIVES if one in wanted and one not in edited]:
        return f"needs {' and '.join(missing)} edits, scored with the edit"
    columns = dict.fromkeys(f"{one.perspective} {one.group}" for one in unmeasured)
    return f"needs {' and '.join(columns)} of edited models"


def _state(word: str) -> State:
    return "holds" if word == "holds" else "does not hold" if word == "does not hold" else "undecided"


def _bound(bound: Bound, rows: Sequence[MeasuredRow]) -> Iterator[_Part]:
    """Of each of the paper's methods the column's value against the range that the claim names, in percent."""
    for row in rows:
        value = row.values.get(("success", Column(bound.perspective, bound.group)))
        if row.edited != bound.edited or row.method not in _PAPERS or row.undone or row.control or value is None:
            continue
        one = value.mean.scaled(100)
        state: State = "undecided"
        if one.n < FEWEST:
            pass
        elif bound.low <= one.low and one.high <= bound.high:
            state = "holds"
        elif one.high < bound.low or one.low > bound.high:
            state = "does not hold"
        inside = min(one.mean - bound.low, bound.high - one.mean)
        where = "inside" if inside >= 0 else "outside"
        yield _Part(
            state,
            inside,
            f"{row.printed_method}: {bound.perspective} {bound.group} {_written(one)} after {bound.edited} edits, "
            f"claimed {bound.low:g} to {bound.high:g}: {abs(inside):.1f} points {where}{_FEW * (one.n < FEWEST)}",
        )


def _order(order: Order, run: MeasuredRun) -> Iterator[_Part]:
    """Of each of the paper's methods the column after edits from one perspective minus the other, in points."""
    metric: Metric = "success"
    column = metric, Column(order.perspective, order.group)
    units = {unit.name: unit for unit in run.info.plan.units}
    taken = (row for row in run.rows if not (row.undone or row.control) and column in row.values)
    rows = {(row.method, row.edited): row for row in taken}
    for method in dict.fromkeys(row.method for row in run.rows if row.method in _PAPERS):
        lower, higher = rows.get((method, order.lower)), rows.get((method, order.higher))
        if lower is None or higher is None:
            continue
        below, above = (scored_cases(run.store, units[row.unit]) for row in (lower, higher))
        found = paired_change(below[column], above[column])
        if found is None:
            continue
        change = found.scaled(100)
        ends = lower.values[column].mean, higher.values[column].mean
        apart = ends[1].low > ends[0].high if order.disjoint else change.low >= 0
        fails = change.high <= 0 if order.disjoint else change.high < 0
        few = change.n < FEWEST
        state: State = "undecided" if few else "holds" if apart else "does not hold" if fails else "undecided"
        yield _Part(
            state,
            change.low if state == "holds" else change.high if state == "does not hold" else change.mean,
            f"{lower.printed_method}: {order.perspective} {order.group} after {order.higher} minus after {order.lower} "
            f"edits {change.mean:+.1f} points [{change.low:+.1f}, {change.high:+.1f}], n = {change.n}{_FEW * few}",
        )


def _written(one: Estimate) -> str:
    return f"{one.mean:.1f} [{one.low:.1f}, {one.high:.1f}]"
