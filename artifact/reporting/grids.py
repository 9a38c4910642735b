"""Tables as text: numbers written once, the same in LaTeX, Markdown, CSV and on the page.

Covers formatting numbers, the grids of strings that the templates print, and the long CSV files. It computes nothing
(tables.py, intervals.py); of escaping it knows that of CSV alone (escapes.py), the rest is each template's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from artifact.evaluation.metrics import METRICS, Column, Group, Metric, columns_of
from artifact.reporting.charts import Chart
from artifact.reporting.escapes import csv_bytes
from artifact.reporting.intervals import Estimate
from artifact.reporting.tables import TRANSFER_GROUPS, PaperCell, PaperRow, Row

METRIC_WORDS: dict[Metric, str] = {
    "success": "share of prompts whose wanted continuation has the lower NLL per token, in percent",
    "accuracy": "share of prompts whose wanted continuation is the argmax at every token, in percent",
    "magnitude": "mean p(wanted) - p(other) with p = exp(-NLL per token), a difference of probabilities from -1 to 1",
}
EMPTY = "n/a"


@dataclass(frozen=True)
class Grid:
    """A table of plain strings: `name` is its file's stem, `caption` says metric, unit and n.

    Columns hold numbers from the `numeric`-th on.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int


def number(value: float, metric: Metric, signed: bool = False) -> str:
    """A fraction as percent with one decimal (success, accuracy), a magnitude with three."""
    sign = "+" if signed else ""
    text = f"{value:{sign}.3f}" if metric == "magnitude" else f"{value * 100:{sign}.1f}"
    # A change that rounds to nothing has no sign.
    return text.lstrip("+-") if not float(text) else text


def interval(found: Estimate, metric: Metric, signed: bool = False) -> str:
    """The 95% interval in brackets, as `number` writes its ends."""
    return f"[{number(found.low, metric, signed)}, {number(found.high, metric, signed)}]"


def edit_name(row: Row | PaperRow) -> str:
    """What was edited from which perspective, in words."""
    return "no edit" if row.edited is None else f"{row.edited} edit"


def own_grid(metric: Metric, rows: Sequence[Row]) -> Grid:
    """This run's rows for one metric, each edit followed by its paired change against the unedited model."""
    lines, columns = [], columns_of(metric)
    for row in rows:
        counts = (str(row.done), str(row.failed), str(row.excluded))
        lines.append((edit_name(row), row.printed_method, *(_mean(row, metric, c) for c in columns), *counts))
        if row.edited is not None:
            lines.append(
                ("change against unedited", row.printed_method, *(_change(row, metric, c) for c in columns), *[""] * 3)
            )
    return Grid(
        name=metric,
        title=f"This run: {metric}",
        caption=f"{metric.capitalize()}: {METRIC_WORDS[metric]}; mean over n facts with its 95% interval, and the "
        "paired change over the facts that both rows share. Specificity wants the true object; the relation is "
        'compared with the word "None", and with another relation that the same kind of subject has.',
        header=("edited", "method", *(column.name for column in columns), "n", "failed", "excluded"),
        rows=tuple(lines),
        numeric=2,
    )


def gap_grid(metric: Metric, rows: Sequence[Row]) -> Grid:
    """How far each edit carries over to the view it was not made from: gap and gap of the changes, with intervals."""
    return Grid(
        name=f"transfer-{metric}",
        title=f"Transfer gap: {metric}",
        caption=f"The edited view's {metric} minus the other view's, paired over n facts, with its 95% interval; "
        "beside it the same of the changes against the unedited model, which leaves out what that model said already. "
        "Zero: the edit carries over whole.",
        header=(
            "edited",
            "method",
            *(f"{group}{words}" for group in TRANSFER_GROUPS for words in ("", ", change")),
            "n",
        ),
        rows=tuple(
            (
                edit_name(row),
                row.printed_method,
                *(_gap(row, metric, group, of_change) for group in TRANSFER_GROUPS for of_change in (False, True)),
                str(max(value.mean.n for value in row.gaps.values())),
            )
            for row in rows
            if row.gaps
        ),
        numeric=2,
    )


def paper_grid(name: str, rows: Sequence[PaperRow]) -> Grid:
    """A published table: value and tolerance, this run's number where it was measured, and the status of each row."""
    first = rows[0]
    edited = next((row.edited for row in rows if row.edited), None)
    return Grid(
        name=name,
        title=f"{first.paper}, {first.where}: {edited} edits",
        caption=paper_caption(rows),
        header=("model", "method", *(f"{c.cell.view} {c.cell.group}" for c in first.cells), "status"),
        rows=tuple(
            (row.printed_model, row.printed_method, *(_paper_cell(cell) for cell in row.cells), row.status)
            for row in rows
        ),
        numeric=2,
    )


def paper_caption(rows: Sequence[PaperRow]) -> str:
    """What a published table's numbers are: metric, unit, n, and how this run's are set beside them."""
    return (
        "Success in percent, as published, with our tolerance in points; n as published: "
        f"{rows[0].cells[0].cell.facts}. Where this run measured a value, its mean, 95% interval and n follow."
    )


def verdict_lines(cells: Sequence[PaperCell]) -> list[str]:
    """The published cells as aligned lines for a terminal: value, tolerance, this run's number, difference, status."""
    rows = [("cell", "paper", "±", "here", "95% interval", "differs", "status")]
    for judged in cells:
        cell, found = judged.cell, judged.measured
        here = ("", "", "")
        if found is not None:
            here = (f"{found.mean:.2f}", f"[{found.low:.2f}, {found.high:.2f}]", f"{found.mean - cell.value:+.2f}")
        rows.append((cell.id, f"{cell.value:.2f}", f"{judged.tolerance.points:g}", *here, judged.status))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        words = [
            f"{row[0]:<{widths[0]}}",
            *(f"{text:>{width}}" for text, width in zip(row[1:6], widths[1:], strict=True)),
        ]
        lines.append("  ".join([*words, row[6]]))
    return lines


def trace_grid(charts: Sequence[Chart]) -> Grid:
    """The traces in numbers: facts, mean probabilities and the largest average indirect effect."""
    lines = []
    for chart in charts:
        for panel in chart.panels:
            role, layer = panel.peak
            lines.append(
                (
                    panel.unit,
                    chart.printed_kind,
                    panel.corrupt,
                    f"{panel.clean:.3f}",
                    f"{panel.corrupted:.3f}",
                    f"{panel.clean - panel.corrupted:.3f}",
                    f"{panel.aie_RL[role, layer]:.3f}",
                    f"{panel.effects[role].role}, layer {layer}",
                    str(panel.facts),
                    str(panel.failed),
                    str(panel.excluded),
                )
            )
    return Grid(
        name="traces",
        title="Causal traces",
        caption="Mean probability of the answer's first token over n facts, clean and corrupted; total effect is their "
        "difference; AIE is the mean over facts of the indirect effect, in probability, its largest value sought "
        "away from the prompt's last token, where the last layers recover the clean answer by construction.",
        header=(
            *("unit", "kind", "view", "clean", "corrupted", "total effect"),
            *("largest AIE", "where", "n", "failed", "excluded"),
        ),
        rows=tuple(lines),
        numeric=3,
    )


def own_csv(rows: Sequence[Row]) -> bytes:
    """This run's numbers, one a line: the same figures as the tables, each with its interval and n."""
    lines: list[list[str]] = []
    for metric in METRICS:
        unit = "probability" if metric == "magnitude" else "percent"
        for row in rows:
            for column in columns_of(metric):
                value = row.values.get((metric, column))
                if value is None:
                    continue
                changed = value.change
                lines.append(
                    [
                        *(row.unit, edit_name(row), row.printed_method, column.view, column.group),
                        *(column.against, metric, unit),
                        *(number(x, metric) for x in (value.mean.mean, value.mean.low, value.mean.high)),
                        str(value.mean.n),
                        *(
                            [number(x, metric, True) for x in (changed.mean, changed.low, changed.high)]
                            if changed
                            else [""] * 3
                        ),
                        str(changed.n) if changed else "",
                        *(str(row.failed), str(row.excluded)),
                    ]
                )
    header = "unit_of_work edited method view group against metric unit mean low high n change change_low change_high"
    return csv_bytes([*header.split(), "change_n", "failed", "excluded"], lines)


def paper_csv(rows: Sequence[PaperRow]) -> bytes:
    """The published cells, one a line, with this run's number and the status."""
    lines = []
    for row in rows:
        for judged in row.cells:
            cell, found = judged.cell, judged.measured
            measured = [f"{x:.2f}" for x in (found.mean, found.low, found.high)] + [str(found.n)] if found else [""] * 4
            lines.append(
                [
                    *(cell.id, cell.paper, cell.where, cell.model, cell.method, cell.edited or ""),
                    *(cell.view, cell.group, "success", cell.unit, f"{cell.value:.2f}"),
                    *(f"{judged.tolerance.points:g}", *measured),
                    *("" if judged.difference is None else f"{judged.difference:+.2f}", judged.status),
                ]
            )
    header = "id paper where model method edited view group metric unit value tolerance measured low high n difference"
    return csv_bytes([*header.split(), "status"], lines)


def grid_csv(grid: Grid) -> bytes:
    """A grid as it stands."""
    return csv_bytes(grid.header, grid.rows)


def _mean(row: Row, metric: Metric, column: Column) -> str:
    value = row.values.get((metric, column))
    return EMPTY if value is None else f"{number(value.mean.mean, metric)} {interval(value.mean, metric)}"


def _change(row: Row, metric: Metric, column: Column) -> str:
    value = row.values.get((metric, column))
    if value is None or value.change is None:
        return EMPTY
    return f"{number(value.change.mean, metric, True)} {interval(value.change, metric, True)}"


def _gap(row: Row, metric: Metric, group: Group, of_change: bool) -> str:
    value = row.gaps.get((metric, group))
    found = None if value is None else value.change if of_change else value.mean
    return EMPTY if found is None else f"{number(found.mean, metric, True)} {interval(found, metric, True)}"


def _paper_cell(judged: PaperCell) -> str:
    published = f"{judged.cell.value:.2f} ± {judged.tolerance.points:g}"
    found = judged.measured
    if found is None:
        return published
    return f"{published}; {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] n={found.n}: {judged.state}"
