"""What the plans of the questions beyond the paper measure, from a run's journal: one file a plan, and this table.

A file here ends in `measured`, which takes a store and gives Findings, or None where the run has none of its units. A
new one is a file and a line of _FILES; the questions that its quantities answer are in expected/questions.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from artifact.reporting.cells import Grid, Scale
from artifact.reporting.intervals import Estimate
from artifact.reporting.line_charts import LineChart
from artifact.runs.store import Store

_FILES = ("where", "modern")
"""Plans' names: a file each."""
POINTS = Scale(2, 100.0, signed=True)
"""Fractions and probabilities as points."""


@dataclass(frozen=True)
class Quantity:
    """A measured number with its interval over facts, and how it is printed; None where it could not be measured."""

    estimate: Estimate | None
    scale: Scale = POINTS


@dataclass(frozen=True)
class Findings:
    """What a run measured for a plan's questions: quantities by name, tables and figures; `figure` is the main one."""

    quantities: Mapping[str, Quantity]
    grids: tuple[Grid, ...] = ()
    charts: tuple[LineChart, ...] = field(default=())
    shown: str = ""
    """The name of a figure of the run's own that shows the answers, where `charts` has none."""

    @property
    def figure(self) -> str:
        """The name of the figure that shows the answers; empty where there is none."""
        return self.charts[0].name if self.charts else self.shown


def findings_of(store: Store) -> dict[str, Findings]:
    """A run's findings by plan, for the plans whose units it has."""
    found = {}
    for name in _FILES:
        measured: Findings | None = import_module(f"{__name__}.{name}").measured(store)
        if measured is not None:
            found[name] = measured
    return found
