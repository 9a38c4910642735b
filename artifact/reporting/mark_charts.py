"""Changes as data of a figure: a line each, a mark and an interval a perspective, a panel a group of prompts.

Covers their CSV and words. curves.py draws them. Success before and after each edit, which has the unedited model and
published values beside it, is edit_charts.py's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from artifact.evaluation.metrics import Group
from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.cells import Cell, Scale
from artifact.reporting.edit_charts import Mark
from artifact.reporting.escapes import Number, csv_bytes

POINTS = Scale(1, 100, signed=True)
"""Fractions as points, which the figures show."""


@dataclass(frozen=True)
class MarkPanel:
    """One group of prompts: a mark's `method` is the line it stands on, its `edited` the perspective it is of."""

    group: Group
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class MarkChart:
    """Differences of fractions, in points, on one scale with zero marked.

    `measured` is what a mark is, in a word or two; `lines` the names of the lines from above; `of` what the marks of
    a perspective are, in words; `heads` the names of the columns of perspective and line; differences up to `margin`
    (a fraction) from zero count as none and are shaded.
    """

    name: str
    title: str
    measured: str
    lines: tuple[str, ...]
    panels: tuple[MarkPanel, ...]
    of: Mapping[Perspective, str]
    heads: tuple[str, str]
    margin: float = 0.0

    @property
    def fingerprint(self) -> bytes:
        """What the figure is drawn from."""
        return repr(self).encode()

    @property
    def summary(self) -> str:
        """The first panel's marks in words, in points."""
        parts = []
        for perspective in PERSPECTIVES:
            own = [mark for mark in self.panels[0].marks if mark.edited == perspective]
            named = ", ".join(f"{mark.method} {Cell.of(mark.measured, POINTS).number}" for mark in own)
            parts += [f"{self.of[perspective]}: {named}"] if own else []
        return f"{self.panels[0].group}, in points; {'; '.join(parts)}"

    @property
    def csv(self) -> bytes:
        """The figure's numbers, in points."""
        rows: list[list[str | Number]] = [
            [panel.group, self.of[mark.edited], mark.method, *Cell.of(mark.measured, POINTS).numbers]
            for panel in self.panels
            for mark in panel.marks
        ]
        return csv_bytes(("group", *self.heads, self.measured, "low", "high", "n"), rows)
