"""What the plan `both` measured: whether the edits of both perspectives of a fact add, interfere or help each other.

Covers N2's quantities, one table and one figure. With d an arm's change against the unedited model, the interaction is
I = d(both) - (d(E) + d(R)), fact by fact. It is additive where its 95% interval lies within MARGIN of zero (two
one-sided tests at 2.5%), else interfering below zero and synergistic above it.

Shape letters: F fact, V number of a scored case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifact.editing.methods.memit_merge import SAME_KEY
from artifact.evaluation.metrics import VALUES, Column, Group, Metric
from artifact.facts.fact import PERSPECTIVES
from artifact.reporting.cells import PROBABILITY, Cell, Grid, Line, Scale
from artifact.reporting.edit_charts import Mark
from artifact.reporting.equivalence import MARGIN, Tested, doubt, family, held_against
from artifact.reporting.findings import Findings, Quantity, floats
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.mark_charts import MarkChart, MarkPanel
from artifact.runs.store import Store

SINGLE = ("E", "R")
GROUPS: tuple[Group, ...] = ("reliability", "generality")
METRICS: tuple[Metric, ...] = ("success", "magnitude")
_SCALES: Mapping[Metric, Scale] = {"success": Scale(1, 100, signed=True), "magnitude": PROBABILITY.of_change}


@dataclass(frozen=True)
class Scored:
    """Finished facts: numbers of the unedited model before_FV, and under each arm (nan where it failed); cosines."""

    cases_F: np.ndarray
    before_FV: np.ndarray
    arms: Mapping[str, np.ndarray]
    cosines: Mapping[str, np.ndarray]

    def change(self, arm: str, metric: Metric, column: Column) -> Series:
        """d of one arm: its change against the unedited model, of the facts that have both."""
        at = VALUES.index((metric, column))
        return Series.finite(self.cases_F, self.arms[arm][:, at] - self.before_FV[:, at])

    def interaction(self, arm: str, metric: Metric, column: Column) -> Series:
        """I of one arm that holds both edits."""
        alone = [self.change(single, metric, column) for single in SINGLE]
        return self.change(arm, metric, column).minus(alone[0]).minus(alone[1])

    def over_the_better(self, arm: str, metric: Metric, column: Column) -> Series:
        """d of one arm minus the larger of the two single edits' d."""
        one, other = (self.change(single, metric, column) for single in SINGLE)
        one, other = one.among(other.cases_N), other.among(one.cases_N)
        better = Series(one.cases_N, np.maximum(one.values_N, other.values_N))
        return self.change(arm, metric, column).minus(better)


def scored_facts(store: Store) -> Scored | None:
    """The finished facts of a run; None where it has none of the plan."""
    records = [
        record
        for unit in store.info().plan.units
        if unit.task == "both"
        for record in store.records(unit)
        if record.status == "done"
    ]
    if not records:
        return None
    payloads = [record.payload for record in records]
    nothing = [np.nan] * len(VALUES)

    arms = {
        arm: np.array([floats(payload["arms"][arm].get("values", nothing)) for payload in payloads])
        for arm in payloads[0]["arms"]
    }
    cosines = {
        name: np.array([payload["cosines"].get(name, np.nan) for payload in payloads])
        for name in ("keys", "values", "deltas")
    }
    before_FV = np.array([floats(payload["before"]) for payload in payloads])
    return Scored(np.array([record.case_id for record in records]), before_FV, arms, cosines)


def measured(store: Store) -> Findings | None:
    """The findings of a run; None where it has no records of the plan."""
    scored = scored_facts(store)
    if scored is None:
        return None
    quantities: dict[str, Quantity] = {}
    for arm in scored.arms:
        if arm in SINGLE:
            continue
        for perspective in PERSPECTIVES:
            series = scored.interaction(arm, "magnitude", Column(perspective, "reliability"))
            (found,) = estimates([series], rates=False, relations=store.info().relations)
            quantities[f"{perspective} interaction, {arm}"] = Quantity(found)
    tests = interaction_tests(scored, store.info().relations)
    return Findings(quantities, (_grid(scored),), (_chart(scored, store.info().model),), tests=tests)


def interaction_tests(scored: Scored, relations: Mapping[str, Sequence[int]]) -> tuple[Tested, ...]:
    """Every interaction by magnitude held against zero: equivalent to it is additive."""
    places = [
        (arm, Column(perspective, group))
        for perspective in PERSPECTIVES
        for group in GROUPS
        for arm in scored.arms
        if arm not in SINGLE
    ]
    series = [scored.interaction(arm, "magnitude", column) for arm, column in places]
    found = zip(places, estimates(series, rates=False, relations=relations), strict=True)
    scale = PROBABILITY.of_change
    return tuple(
        family(held_against(arm, f"I, {column.name}", one, scale, margin=MARGIN) for (arm, column), one in found)
    )


def outcome(estimate: Estimate | None, margin: float = MARGIN) -> str:
    """What an interaction's interval says, in a word."""
    if estimate is None:
        return "not measured"
    if why := doubt(estimate):
        return f"undecided: {why}"
    if -margin < estimate.low and estimate.high < margin:
        return "additive"
    return "interfering" if estimate.high < 0 else "synergistic" if estimate.low > 0 else "undecided"


def _chart(scored: Scored, model: str) -> MarkChart:
    """The figure: each arm's interaction, by magnitude, on both perspectives' prompts."""
    arms = tuple(arm for arm in scored.arms if arm not in SINGLE)
    panels = []
    for group in GROUPS:
        places = [(arm, perspective) for arm in arms for perspective in PERSPECTIVES]
        series = [scored.interaction(arm, "magnitude", Column(asked, group)) for arm, asked in places]
        found = zip(places, estimates(series, rates=False), strict=True)
        panels.append(MarkPanel(group, tuple(Mark(arm, asked, one, None) for (arm, asked), one in found if one)))
    return MarkChart(
        name="both-interaction",
        title=f"Both edits of a fact against the sum of the single ones, in probability, {model}",
        measured="interaction",
        lines=arms,
        panels=tuple(panels),
        of={one: f"asked from the {one} perspective" for one in PERSPECTIVES},
        heads=("asked", "arm"),
        margin=MARGIN,
    )


def _grid(scored: Scored) -> Grid:
    lines = []
    for perspective in PERSPECTIVES:
        for group in GROUPS:
            column = Column(perspective, group)
            for arm in scored.arms:
                of = [scored.change(arm, metric, column) for metric in METRICS]
                if arm not in SINGLE:
                    of += [scored.interaction(arm, metric, column) for metric in METRICS]
                    of += [scored.over_the_better(arm, metric, column) for metric in METRICS]
                found = estimates(of, rates=False)
                said = "" if arm in SINGLE else outcome(found[len(METRICS) + METRICS.index("magnitude")])
                found += [None] * (3 * len(METRICS) - len(found))
                scales = [_SCALES[metric] for metric in METRICS] * 3
                cells = [Cell.of(one, scale) for one, scale in zip(found, scales, strict=True)]
                lines.append(Line((f"{perspective} {group}", arm), (*cells, said)))
    columns = (*(f"{what}, {metric}" for what in ("change", "I", "over the better") for metric in METRICS), "outcome")
    alike = [
        f"{name} {one.mean:.3f}"
        for name, values_F in scored.cosines.items()
        if (one := estimates([Series.finite(scored.cases_F, values_F)], rates=False)[0]) is not None
    ]
    keys_F = scored.cosines["keys"]
    merged = (
        f"Merged is shown for every fact; MEMIT-Merge itself merges keys of a cosine of {SAME_KEY:g} or more, which "
        f"{int((keys_F >= SAME_KEY).sum())} of {int(np.isfinite(keys_F).sum())} facts have."
    )
    caption = (
        "MEMIT: changes against the unedited model (success in points of 100, magnitude in probability), the "
        "interaction I = d(both) - (d(E) + d(R)) of each fact, and d(both) minus the better single edit. Where the two "
        "single changes add up to more than there is to gain, I is below zero however well both are written: the last "
        f"two numbers then tell. Additive where the interval of I lies within {MARGIN:g} of zero, by magnitude. "
        f"{len(scored.cases_F)} facts; 95% intervals "
        f"over facts. Mean cosines between the two single edits: {', '.join(alike)}. {merged}"
    )
    return Grid("both", "Both perspectives of one fact", caption, ("prompts", "arm"), columns, tuple(lines))
