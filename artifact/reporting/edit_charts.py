"""Success before and after each edit as data of a figure a perspective, beside the published values where they exist.

Covers the columns of Tables 1 and 2 (reliability and generality), any model, and their CSV. curves.py draws it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifact.evaluation.metrics import Column, Group
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import SCALES, Cell
from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate
from artifact.reporting.tables import TRANSFER_GROUPS, JudgedRow, MeasuredRow

AFTER: Mapping[Perspective, str] = {"relation": "after a relation edit", "entity": "after an entity edit"}
"""When a number was measured, in words, by the edited perspective."""


@dataclass(frozen=True)
class Mark:
    """One edit's number: a method's printed name, the edited perspective, its success (a fraction) and, in percent,
    the published value.
    """

    method: str
    edited: Perspective
    measured: Estimate | None
    published: float | None


@dataclass(frozen=True)
class EditPanel:
    """One group of prompts: the unedited model's success (a fraction; None if it was not scored) and the edits'."""

    group: Group
    unedited: Estimate | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class EditChart:
    """How one perspective's prompts are answered, before any edit and after edits from either perspective."""

    perspective: Perspective
    model: str
    methods: tuple[str, ...]
    panels: tuple[EditPanel, ...]

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"edits-{self.perspective}"

    @property
    def csv(self) -> bytes:
        """The figure's numbers."""
        return edit_csv(self)

    @property
    def title(self) -> str:
        """What the figure shows, in words."""
        return f"Asked from the {self.perspective} perspective: success before and after each edit, {self.model}"

    @property
    def fingerprint(self) -> bytes:
        """What the figure is drawn from."""
        return repr(self).encode()

    @property
    def summary(self) -> str:
        """What the figure shows, in words: the reliability of the unedited model and after each edit, in percent."""
        panel = self.panels[0]
        parts = [] if panel.unedited is None else [f"unedited {_percent(panel.unedited)}"]
        for edited in PERSPECTIVES:
            edits = [
                f"{mark.method} {_percent(mark.measured)}"
                for mark in panel.marks
                if mark.edited == edited and mark.measured is not None
            ]
            if edits:
                parts.append(f"{AFTER[edited]} {', '.join(edits)}")
        return f"{self.perspective} perspective, {panel.group} in percent: {'; '.join(parts)}"

    @property
    def published(self) -> bool:
        """Whether any published value is shown."""
        return any(mark.published is not None for panel in self.panels for mark in panel.marks)


def edit_charts(model: str, rows: Sequence[MeasuredRow], paper: Sequence[JudgedRow] = ()) -> list[EditChart]:
    """A chart for each perspective of which a row has numbers; none for a run without edits.

    `paper` are the published rows to show beside them: those of other models are left out.
    """
    edits = [row for row in rows if row.edited is not None]
    base = next((row for row in rows if row.edited is None), None)
    methods = tuple(dict.fromkeys(row.printed_method for row in edits))
    published = {
        (row.source.method, row.source.edited, cell.cell.perspective, cell.cell.group): cell.cell.value
        for row in paper
        if row.source.model == model
        for cell in row.cells
    }
    charts = []
    for perspective in PERSPECTIVES:
        panels = []
        for group in TRANSFER_GROUPS:
            marks = [
                Mark(
                    row.printed_method,
                    row.edited,
                    _success(row, perspective, group),
                    published.get((row.method, row.edited, perspective, group)) if row.control is None else None,
                )
                for row in edits
                if row.edited is not None
            ]
            unedited = None if base is None else _success(base, perspective, group)
            panels.append(EditPanel(group, unedited, tuple(mark for mark in marks if mark.measured is not None)))
        if any(panel.marks for panel in panels):
            charts.append(EditChart(perspective, model, methods, tuple(panels)))
    return charts


def edit_csv(chart: EditChart) -> bytes:
    """The figure's numbers, one a line, in percent, with the published value where there is one."""
    header = ("asked", "group", "edited", "method", "success", "low", "high", "n", "published")
    lines: list[list[object]] = []
    for panel in chart.panels:
        if panel.unedited is not None:
            lines.append([chart.perspective, panel.group, "no edit", "unedited", *_numbers(panel.unedited), ""])
        for mark in panel.marks:
            value = "" if mark.published is None else Number(f"{mark.published:.2f}")
            edit = f"{mark.edited} edit"
            lines.append([chart.perspective, panel.group, edit, mark.method, *_numbers(mark.measured), value])
    return csv_bytes(header, lines)


def _success(row: MeasuredRow, perspective: Perspective, group: Group) -> Estimate | None:
    value = row.values.get(("success", Column(perspective, group)))
    return value.mean if value else None


def _numbers(estimate: Estimate | None) -> list[Number]:
    return Cell.of(estimate, SCALES["success"]).numbers


def _percent(estimate: Estimate | None) -> str:
    return str(Cell.of(estimate, SCALES["success"]).number)
