"""The tables of a report: which numbers stand in which grid, and the long CSV files with one number a line.

Covers this run's rows, transfer gaps, traces, and the published values. Cells say how numbers are written (cells.py);
tables.py and intervals.py compute them.
"""

from collections.abc import Mapping, Sequence

from artifact.evaluation.metrics import METRICS, Metric, columns_of
from artifact.facts.fact import Perspective
from artifact.reporting.cells import COUNT, POINTS, PROBABILITY, SCALES, UNITS, Cell, Grid, Line, Scale
from artifact.reporting.charts import Chart, Panel
from artifact.reporting.escapes import csv_bytes
from artifact.reporting.tables import RATES, TRANSFER_GROUPS, JudgedCell, JudgedRow, MeasuredRow, Value, shown_columns

METRIC_WORDS: dict[Metric, str] = {
    "success": "share of prompts whose wanted continuation has the lower NLL per token, in percent",
    "accuracy": "share of prompts whose wanted continuation is the argmax at every token, in percent",
    "magnitude": "mean p(wanted) - p(other) with p = exp(-NLL per token), a difference of probabilities from -1 to 1",
}


def edit_name(edited: Perspective | None) -> str:
    """What was edited from which perspective, in words."""
    return "no edit" if edited is None else f"{edited} edit"


def own_grid(metric: Metric, rows: Sequence[MeasuredRow], hashes: Mapping[str, str]) -> Grid:
    """This run's rows for one metric, each edit with its paired change against the unedited model.

    `hashes` are those of the methods' settings.
    """
    lines, columns, scale = [], shown_columns(metric, rows), SCALES[metric]
    for row in rows:
        values = [row.values.get((metric, column)) for column in columns]
        edit = row.edited is not None
        lines.append(
            Line(
                (edit_name(row.edited), row.printed_method),
                tuple(_mean(value, scale) for value in values),
                tuple(_change(value, scale) for value in values) if edit else (),
                (row.done, row.failed, row.excluded),
                settings=hashes.get(row.method, "") if edit else "",
            )
        )
    return Grid(
        name=metric,
        title=f"This run: {metric}",
        caption=f"{metric.capitalize()}: {METRIC_WORDS[metric]}; mean over n facts with its 95% interval, and the "
        "paired change over the facts that both rows share. Specificity wants what is true of each prompt; the "
        'relation is compared with the word "None", and with another relation that the same kind of subject has.',
        heads=("edited", "method"),
        columns=tuple(column.name for column in columns),
        lines=tuple(lines),
    )


def overall_grid(rows: Sequence[MeasuredRow]) -> Grid:
    """The overall score of the released summary, one number a row; without lines where no row has all five rates."""
    scale = SCALES["success"]
    return Grid(
        name="overall",
        title="Overall score",
        caption="The harmonic mean of five rates of success, in percent, zero where one of them is zero, as the "
        f"released summary computes it: {', '.join(column.name for column in RATES)}; 95% interval from resampled "
        "facts. The paper does not print it, so nothing is compared with it.",
        heads=("edited", "method"),
        columns=("overall score",),
        lines=tuple(
            Line((edit_name(row.edited), row.printed_method), (Cell.of(row.overall, scale),))
            for row in rows
            if row.overall is not None
        ),
    )


def gap_grid(metric: Metric, rows: Sequence[MeasuredRow]) -> Grid:
    """How far each edit carries over to the other perspective: gap and gap of the changes, with intervals."""
    scale, lines = SCALES[metric].of_change, []
    for row in (row for row in rows if row.gaps):
        gaps = [row.gaps.get((metric, group)) for group in TRANSFER_GROUPS]
        cells = [cell for gap in gaps for cell in (_mean(gap, scale), _change(gap, scale))]
        facts = Cell(max(gap.mean.n for gap in row.gaps.values()), scale=COUNT)
        lines.append(Line((edit_name(row.edited), row.printed_method), (*cells, facts)))
    return Grid(
        name=f"transfer-{metric}",
        title=f"Transfer gap: {metric}",
        caption=f"The edited perspective's {metric} minus the other's, paired over n facts, with its 95% interval; "
        "beside it the same of the changes against the unedited model, which leaves out what that model said already. "
        "Zero: the edit carries over whole, or changed nothing.",
        heads=("edited", "method"),
        columns=(*(f"{group}{words}" for group in TRANSFER_GROUPS for words in ("", ", change")), "n"),
        lines=tuple(lines),
    )


def paper_grid(name: str, rows: Sequence[JudgedRow]) -> Grid:
    """A published table: value and tolerance, this run's number where it was measured, and the status of each row."""
    first, source = rows[0], rows[0].source
    edited = next((row.source.edited for row in rows if row.source.edited), None)
    return Grid(
        name=name,
        title=f"{source.paper}, {source.where}: {edited} edits",
        caption="Success in percent, as published, with our tolerance in points; n as published: "
        f"{source.facts}. Where this run measured a value, its mean, 95% interval and n follow.",
        heads=("model", "method"),
        columns=tuple(f"{judged.cell.perspective} {judged.cell.group}" for judged in first.cells),
        lines=tuple(
            Line(
                (row.source.printed_model, row.printed_method),
                tuple(published_cell(judged) for judged in row.cells),
                status=row.status,
            )
            for row in rows
        ),
    )


def published_cell(judged: JudgedCell) -> Cell:
    """A published value with what this run says of it."""
    mean, low, high, n = None, None, None, None
    if (measured := judged.measured) is not None:
        mean, low, high, n = measured.mean, measured.low, measured.high, measured.n
    published = judged.cell.value, judged.tolerance.points
    return Cell(mean, low, high, n, judged.state, POINTS, published)


def verdict_lines(cells: Sequence[JudgedCell]) -> list[str]:
    """The published cells as aligned lines for a terminal: value, tolerance, this run's number, difference, status."""
    rows = [("cell", "paper", "tolerance", "here", "95% interval", "differs", "status")]
    for judged in cells:
        cell = published_cell(judged)
        here = cell.numbers[0], cell.interval, cell.difference
        rows.append((judged.cell.id, cell.value, cell.tolerance, *here, judged.status))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{first:<{widths[0]}}", *(f"{text:>{w}}" for text, w in zip(middle, widths[1:], strict=False)), status]
        )
        for first, *middle, status in rows
    ]


def trace_grid(charts: Sequence[Chart]) -> Grid:
    """The traces in numbers: facts, mean probabilities and the largest average indirect effect."""
    return Grid(
        name="traces",
        title="Causal traces",
        caption="Mean probability of the answer's first token over n facts, clean and corrupted; total effect is their "
        "difference; AIE is the mean over facts of the indirect effect, in probability, its largest value sought "
        "away from the prompt's last token, where the last layers recover the clean answer by construction. *: over "
        "fewer than n facts, those that have such a token.",
        heads=("unit", "kind", "perspective"),
        columns=("clean", "corrupted", "total effect", "largest AIE", "where"),
        lines=tuple(_trace_line(chart, panel) for chart in charts for panel in chart.panels),
    )


def own_csv(rows: Sequence[MeasuredRow]) -> bytes:
    """This run's numbers, one a line: the same figures as the tables, each with its interval and n."""
    lines: list[list[object]] = []
    for metric in METRICS:
        for row in rows:
            for column in columns_of(metric):
                if (value := row.values.get((metric, column))) is not None:
                    lines.append(
                        [
                            *(row.unit, edit_name(row.edited), row.printed_method, column.perspective, column.group),
                            *(column.against, metric, UNITS[metric]),
                            *_mean(value, SCALES[metric]).numbers,
                            *_change(value, SCALES[metric]).numbers,
                            *(row.failed, row.excluded),
                        ]
                    )
    header = (
        "unit_of_work edited method perspective group against metric unit mean low high n change change_low change_high"
    )
    return csv_bytes([*header.split(), "change_n", "failed", "excluded"], lines)


def paper_csv(rows: Sequence[JudgedRow]) -> bytes:
    """The published cells, one a line, with this run's number and the status."""
    lines: list[list[object]] = []
    for judged in (judged for row in rows for judged in row.cells):
        source, cell = judged.cell, published_cell(judged)
        lines.append(
            [
                *(source.id, source.paper, source.where, source.model, source.method, source.edited or ""),
                *(source.perspective, source.group, "success", source.unit, cell.value, cell.tolerance),
                *(*cell.numbers, cell.difference, judged.status),
            ]
        )
    header = "id paper where model method edited perspective group metric unit value tolerance measured low high n"
    return csv_bytes([*header.split(), "difference", "status"], lines)


def _mean(value: Value | None, scale: Scale) -> Cell:
    return Cell.of(value.mean if value else None, scale)


def _change(value: Value | None, scale: Scale) -> Cell:
    return Cell.of(value.change if value else None, scale.of_change)


def _trace_line(chart: Chart, panel: Panel) -> Line:
    role, layer = panel.peak
    facts = panel.effects[role].facts  # those that have such a token
    of = "" if facts == panel.facts else "*"
    numbers = (panel.clean, panel.corrupted, panel.clean - panel.corrupted, float(panel.aie_RL[role, layer]))
    return Line(
        (panel.unit, chart.printed_kind, panel.perspective),
        (*(Cell(x, scale=PROBABILITY) for x in numbers), f"{panel.effects[role].role}, layer {layer}{of}"),
        counts=(panel.facts, panel.failed, panel.excluded),
    )
