"""The folded tables "Statistics" that stand beside a report's tables, and their CSV.

Covers which numbers of a run are held against what: changes and transfer gaps against zero, with a margin of 5 points,
total effects and the differences of the claims about figures against zero, published values with their tolerance.
equivalence.py tests them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifact.evaluation.metrics import METRICS, Metric
from artifact.reporting.cells import COUNT, EMPTY, SCALES, Cell, Grid, Line, Scale
from artifact.reporting.charts import Chart
from artifact.reporting.equivalence import ALPHA, LEAST_ALIKE, LEAST_FACTS, MARGIN, POWER, Tested, family, held_against
from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.expected import Claim
from artifact.reporting.figure_claims import effect_tests
from artifact.reporting.grids import edit_name
from artifact.reporting.intervals import Series, estimates
from artifact.reporting.questions import JudgedQuestion
from artifact.reporting.tables import TRANSFER_GROUPS, JudgedRow, MeasuredRow, shown_columns
from artifact.reporting.verdict import MeasuredRun

PLAN = "plan-"
"""What the tables of a question's plan are called by, before its name."""
READING = (
    "By relation: the 95% interval from drawing relations, then facts within them; not known where the run does not "
    "say its facts' relations. Margin: how far from the target still counts as the same. p larger: the p-value of a "
    "difference beyond the margin; p smaller: of one within it, by two one-sided tests. Both are corrected by Holm "
    "over the table, and use the larger of the standard errors over facts and over relations. The outcome is different "
    f"or equivalent where one of them is at most {ALPHA:g}, and else undecided. A mean over fewer than {LEAST_FACTS} "
    f"facts, or over fewer than {LEAST_ALIKE} that are all alike, is undecided. Detectable: the smallest true "
    f"difference from the target that a two-sided test at {ALPHA:.0%} finds to be beyond the margin with {POWER:.0%} "
    "probability from so many facts, before Holm's correction. No status depends on these outcomes."
)
"""How the tables are read."""


@dataclass(frozen=True)
class Statistics:
    """The tests of one table, corrected together. `beside` names the table: its grid, or what it is about."""

    beside: str
    title: str
    against: str
    """What the numbers are held against, in words."""
    tests: tuple[Tested, ...]

    @property
    def grid(self) -> Grid:
        """The table of the page: a line a number."""
        caption = f"{self.against} {len(self.tests)} numbers, corrected together."
        columns = ("difference", "by relation", "margin", "p larger", "p smaller", "outcome", "detectable", "n")
        lines = tuple(Line((one.of, one.name), _cells(one)) for one in self.tests)
        return Grid(f"statistics-{self.beside}", f"Statistics: {self.title}", caption, ("of", "number"), columns, lines)


def run_statistics(run: MeasuredRun, drawn: Sequence[Chart], claims: Sequence[Claim]) -> dict[str, Statistics]:
    """A run's own, by the table beside which they stand: changes and gaps by metric, total effects, and the claims
    about figures; those that have numbers.
    """
    found = []
    for metric in METRICS:
        against = f"Paired changes of {metric} against the unedited model, held against zero."
        found.append(Statistics(metric, f"changes of {metric}", against, tuple(_changes(metric, run.rows))))
        against = f"Transfer gaps of the changes of {metric}, held against zero: all carries over, or nothing changed."
        tests = tuple(_gaps(metric, run.rows))
        found.append(Statistics(f"transfer-{metric}", f"transfer gaps of {metric}", against, tests))
    against = "Total effects, clean minus corrupted probability, held against zero."
    found.append(Statistics("traces", "total effects", against, tuple(_total_effects(run, drawn))))
    against = "The differences of the claims about the figures, in probability, held against zero."
    found.append(Statistics("figures", "claims about the figures", against, tuple(effect_tests(claims, run.traced))))
    for plan, findings in run.findings.items():
        against = f"Differences of the plan {plan}, held against zero."
        found.append(Statistics(f"{PLAN}{plan}", f"plan {plan}", against, findings.tests))
    return {one.beside: one for one in found if one.tests}


def paper_statistics(tables: Mapping[str, Sequence[JudgedRow]]) -> dict[str, Statistics]:
    """Of published tables by name; those of which something was measured."""
    against = "Measured minus published, in points, with the tolerance as margin."
    found = {}
    for name, rows in tables.items():
        tests = tuple(cell.tested for row in rows for cell in row.cells if cell.tested is not None)
        if tests:
            source = rows[0].source
            found[name] = Statistics(name, f"{source.paper}, {source.where}", against, tests)
    return found


def question_statistics(model: str, questions: Sequence[JudgedQuestion]) -> dict[str, Statistics]:
    """Of the questions' quantities that are means over facts; empty where a model has none."""
    answers = [answer for one in questions for answer in one.answers if answer.model == model]
    tests = tuple(test for answer in answers for test in answer.tests)
    against = "Quantities of the questions, held against the bounds of their predictions."
    return {"questions": Statistics("questions", "questions beyond the paper", against, tests)} if tests else {}


def statistics_csv(every: Sequence[Statistics]) -> bytes:
    """All tests, one a line, in the units of their tables."""
    lines: list[list[object]] = []
    for table in every:
        for one in table.tests:
            scale, difference, ends = one.scale, one.difference, one.by_relation
            lines.append(
                [
                    *(table.beside, one.of, one.name, scale(one.target), _number(scale, one.margin)),
                    *(scale(x) for x in (difference.mean, difference.low, difference.high)),
                    *([scale(ends[0]), scale(ends[1]), ends[2]] if ends else ["", "", ""]),
                    *(Number("" if p is None else f"{p:.4g}") for p in one.p_values),
                    *(one.outcome, one.why, _number(scale, one.detectable), difference.n),
                ]
            )
    header = (
        "table of number target margin difference low high relation_low relation_high relations p_larger p_larger_holm "
        "p_smaller p_smaller_holm outcome reason detectable n"
    )
    return csv_bytes(header.split(), lines)


def _changes(metric: Metric, rows: Sequence[MeasuredRow]) -> list[Tested]:
    scale = SCALES[metric].of_change
    return family(
        held_against(_edit(row), column.name, value.change, scale, margin=MARGIN)
        for row in rows
        for column in shown_columns(metric, rows)
        if row.edited is not None and (value := row.values.get((metric, column))) is not None
    )


def _gaps(metric: Metric, rows: Sequence[MeasuredRow]) -> list[Tested]:
    scale = SCALES[metric].of_change
    return family(
        held_against(_edit(row), group, value.change, scale, margin=MARGIN)
        for row in rows
        for group in TRANSFER_GROUPS
        if (value := row.gaps.get((metric, group))) is not None
    )


def _total_effects(run: MeasuredRun, drawn: Sequence[Chart]) -> list[Tested]:
    """Clean minus corrupted of each perspective, once for all kinds of trace of the same facts."""
    found: dict[tuple[str, bytes, bytes], tuple[str, str, Series]] = {}
    for chart in drawn:
        for panel in chart.panels:
            traces = run.traced.traces[panel.kind, panel.perspective]
            one = Series(traces.cases_F, traces.clean_F - traces.corrupted_F)
            key = panel.perspective, one.cases_N.tobytes(), one.values_N.tobytes()
            found.setdefault(key, (chart.printed_kind, f"{panel.perspective} perspective", one))
    series = [one for _, _, one in found.values()]
    means = estimates(series, rates=False, relations=run.info.traced_relations)
    names = [(kind, name) for kind, name, _ in found.values()]
    return family(held_against(*name, one, _PROBABILITY) for name, one in zip(names, means, strict=True))


_PROBABILITY = SCALES["magnitude"].of_change


def _edit(row: MeasuredRow) -> str:
    return f"{row.printed_method}, {edit_name(row.edited)}"


def _cells(one: Tested) -> tuple[Cell | str, ...]:
    scale, ends = one.scale, one.by_relation
    size = Scale(scale.decimals, scale.factor)
    return (
        Cell.of(one.difference, scale),
        "not known" if ends is None else f"[{scale(ends[0])}, {scale(ends[1])}], {ends[2]} relations",
        Cell(one.margin, scale=size),
        *(_probability(p) for p in (one.holm_different, one.holm_equivalent)),
        one.words,
        Cell(one.detectable, scale=size),
        Cell(one.difference.n, scale=COUNT),
    )


def _number(scale: Scale, value: float | None) -> Number:
    return Number() if value is None else Scale(scale.decimals, scale.factor)(value)


def _probability(p: float | None) -> str:
    return EMPTY if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
