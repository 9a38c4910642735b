"""What the plan `both` measured: whether the edits of both perspectives of a fact add, interfere or help each other.

Covers N2's quantities, two tables and one figure. With d an arm's change against the unedited model, the interaction is
I = d(both) - (d(E) + d(R)), fact by fact. It is additive where its 95% interval lies within MARGIN of zero (two
one-sided tests at 2.5%), or TOO_SMALL where that of d(E) + d(R) does, too; else interfering below zero and synergistic
above it.

Shape letters: F fact, V number of a scored case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifact.editing.methods.memit_merge import SAME_KEY
from artifact.evaluation.metrics import VALUES, Column, Group, Metric
from artifact.facts.fact import PERSPECTIVES
from artifact.reporting.cells import PROBABILITY, SCALES, Cell, Grid, Line, Scale
from artifact.reporting.edit_charts import Mark
from artifact.reporting.equivalence import MARGIN, Tested, doubt, family, held_against
from artifact.reporting.findings import Findings, Quantity, floats
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.mark_charts import MarkChart, MarkPanel
from artifact.runs.store import Store

SINGLE = ("E", "R")
TOO_SMALL = "too small to tell"
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

    def before(self, metric: Metric, column: Column) -> Series:
        """The unedited model's numbers."""
        return Series.finite(self.cases_F, self.before_FV[:, VALUES.index((metric, column))])

    def of_singles(self, metric: Metric, column: Column) -> Series:
        """d(E) + d(R)."""
        one, other = (self.change(single, metric, column) for single in SINGLE)
        one, other = one.among(other.cases_N), other.among(one.cases_N)
        return Series(one.cases_N, one.values_N + other.values_N)

    def little(self, metric: Metric, column: Column) -> bool:
        """Whether the single edits together change a column's number by no more than the margin."""
        (alone,) = estimates([self.of_singles(metric, column)], rates=False)
        return alone is not None and not doubt(alone) and alone.low > -MARGIN and alone.high < MARGIN

    def interaction(self, arm: str, metric: Metric, column: Column) -> Series:
        """I of one arm that holds both edits."""
        return self.change(arm, metric, column).minus(self.of_singles(metric, column))

    def capped(self, arm: str, metric: Metric, column: Column) -> Series:
        """I with the sum of the single edits' d at most what there is to gain: no number is above one."""
        alone, before = self.of_singles(metric, column), self.before(metric, column).among(self.cases_F)
        alone, before = alone.among(before.cases_N), before.among(alone.cases_N)
        most = Series(alone.cases_N, np.minimum(alone.values_N, 1 - before.values_N))
        return self.change(arm, metric, column).minus(most)

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
            name, column = f"{perspective} interaction, {arm}", Column(perspective, "reliability")
            series = scored.interaction(arm, "magnitude", column)
            (found,) = estimates([series], rates=False, relations=store.info().relations)
            small = outcome(found, scored.little("magnitude", column)) == TOO_SMALL
            why = "the single edits together change too little to tell" if small else ""
            quantities[name] = Quantity(found, PROBABILITY.of_change, why=why)
    tests = interaction_tests(scored, store.info().relations)
    return Findings(quantities, (_grid(scored), _room_grid(scored)), (_chart(scored, store.info().model),), tests=tests)


def interaction_tests(scored: Scored, relations: Mapping[str, Sequence[int]]) -> tuple[Tested, ...]:
    """Every interaction held against zero: equivalent to it is additive. Without those that are too small to tell."""
    places = [
        (arm, metric, Column(perspective, group))
        for metric in METRICS
        for perspective in PERSPECTIVES
        for group in GROUPS
        for arm in scored.arms
        if arm not in SINGLE
    ]
    found = estimates([scored.interaction(*place) for place in places], rates=False, relations=relations)
    return tuple(
        family(
            held_against(arm, f"I, {column.name}, {metric}", one, _SCALES[metric], margin=MARGIN)
            for (arm, metric, column), one in zip(places, found, strict=True)
            if outcome(one, scored.little(metric, column)) != TOO_SMALL
        )
    )


def outcome(estimate: Estimate | None, little: bool = False, margin: float = MARGIN) -> str:
    """What an interaction's interval says, in a word. Within the margin of none it says nothing where the single edits
    together do as `little`.
    """
    if estimate is None:
        return "not measured"
    if why := doubt(estimate):
        return f"undecided: {why}"
    if -margin < estimate.low and estimate.high < margin:
        return TOO_SMALL if little else "additive"
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
    """Each arm's change and interaction."""
    lines = []
    for perspective in PERSPECTIVES:
        for group in GROUPS:
            column, prompts = Column(perspective, group), f"{perspective} {group}"
            successes = [metric == "success" for metric in METRICS]
            before = estimates([scored.before(metric, column) for metric in METRICS], successes)
            cells = [Cell.of(one, SCALES[metric]) for one, metric in zip(before, METRICS, strict=True)]
            none = [Cell.of(None, PROBABILITY)] * len(METRICS)
            lines.append(Line((prompts, "unedited"), (*cells, *none, *[""] * len(METRICS))))
            for arm in scored.arms:
                of = [scored.change(arm, metric, column) for metric in METRICS]
                if arm not in SINGLE:
                    of += [scored.interaction(arm, metric, column) for metric in METRICS]
                found = estimates(of, rates=False)
                together = zip(METRICS, found[len(METRICS) :], strict=False)
                said = [outcome(one, scored.little(metric, column)) for metric, one in together] or [""] * len(METRICS)
                found += [None] * (2 * len(METRICS) - len(found))
                lines.append(Line((prompts, arm), (*_cells(found), *said)))
    alike = [
        f"{name} {one.mean:.3f}"
        for name, values_F in scored.cosines.items()
        if (one := estimates([Series.finite(scored.cases_F, values_F)], rates=False)[0]) is not None
    ]
    keys_F = scored.cosines["keys"]
    caption = (
        "MEMIT: changes against the unedited model (success in points of 100, magnitude in probability), of the "
        "unedited model its own numbers, and the interaction I = d(both) - (d(E) + d(R)) of each fact. It is additive "
        f"where the interval of I lies within {MARGIN:g} of zero ({100 * MARGIN:g} points), or too small to tell where "
        f"that of d(E) + d(R) does, too. N2 asks by magnitude. {len(scored.cases_F)} facts; 95% intervals over facts. "
        f"Mean cosines between the two single edits: {', '.join(alike) or 'none'}. Merged is shown for every fact; "
        f"MEMIT-Merge itself merges keys of a cosine of {SAME_KEY:g} or more, which {int((keys_F >= SAME_KEY).sum())} "
        f"of {int(np.isfinite(keys_F).sum())} facts have."
    )
    counts = {arm: int(np.isfinite(values_FV).any(1).sum()) for arm, values_FV in scored.arms.items()}
    if fewer := [f"{arm} {count}" for arm, count in counts.items() if count < len(scored.cases_F)]:
        caption += f" Facts whose edit could be computed, where not all could: {', '.join(fewer)}."
    columns = tuple(f"{what}, {metric}" for what in ("change", "I", "outcome") for metric in METRICS)
    return Grid("both", "Both perspectives of one fact", caption, ("prompts", "arm"), columns, tuple(lines))


def _room_grid(scored: Scored) -> Grid:
    """The interaction where the single changes add up to more than there is to gain."""
    lines = []
    for perspective in PERSPECTIVES:
        for group in GROUPS:
            column = Column(perspective, group)
            for arm in (arm for arm in scored.arms if arm not in SINGLE):
                of = [scored.capped(arm, metric, column) for metric in METRICS]
                of += [scored.over_the_better(arm, metric, column) for metric in METRICS]
                lines.append(Line((f"{perspective} {group}", arm), _cells(estimates(of, rates=False))))
    caption = (
        "Where the two single changes add up to more than there is to gain, I is below zero however well both edits "
        "are written. So here the sum d(E) + d(R) of each fact is at most what its unedited model leaves to gain; and "
        "beside it d(both) minus the better single edit. In points of 100 and in probability; 95% intervals over facts."
    )
    columns = tuple(f"{what}, {metric}" for what in ("I, sum capped", "over the better") for metric in METRICS)
    title = "Both perspectives of one fact, against what there is to gain"
    return Grid("both-room", title, caption, ("prompts", "arm"), columns, tuple(lines))


def _cells(found: Sequence[Estimate | None]) -> tuple[Cell, ...]:
    """Numbers of both metrics in turn."""
    return tuple(Cell.of(one, _SCALES[METRICS[at % len(METRICS)]]) for at, one in enumerate(found))
