"""What the plans of the questions beyond the paper measure, from a run's journal: one file a plan, and this table.

A file here ends in `measured`, which takes a store and gives Findings, or None where the run has none of its units. A
new one is a file and a line of _FILES; the questions that its quantities answer are in expected/questions.json.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import NamedTuple

from artifact.reporting.cells import Grid, Scale
from artifact.reporting.equivalence import MARGIN, Tested, doubt, family, held_against
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.reporting.line_charts import LineChart
from artifact.reporting.mark_charts import MarkChart
from artifact.reporting.multiverse import Curve
from artifact.runs.store import Store

_FILES = ("real", "where", "mechanism", "multiverse", "both", "encoders", "modern")
"""Plans' names: a file each."""
POINTS = Scale(2, 100.0, signed=True)
"""Fractions and probabilities as points."""


@dataclass(frozen=True)
class Quantity:
    """A measured number with its interval over facts, and how it is printed; None where it could not be measured, with
    what is `missing` in words, if that is known. `why` it decides nothing although it was measured, in words.
    """

    estimate: Estimate | None
    scale: Scale = POINTS
    missing: str = ""
    why: str = ""

    @property
    def doubt(self) -> str:
        """Why the number decides nothing, by its own reason or by that of its interval; empty where it may."""
        return self.why or (doubt(self.estimate) if self.estimate else "")


@dataclass(frozen=True)
class Findings:
    """What a run measured for a plan's questions: quantities by name, tables and figures; `figure` is the main one:
    `shown`, a figure that the run has anyway or several in words, or the first chart.
    """

    quantities: Mapping[str, Quantity]
    grids: tuple[Grid, ...] = ()
    charts: tuple[LineChart | MarkChart | Curve, ...] = field(default=())
    shown: str = ""
    tests: tuple[Tested, ...] = ()
    """Differences of its tables held against zero, corrected together; they decide nothing."""
    parameters: int = 0
    """The model's size, where a question is about that (Question.larger_than); 0 where the run does not say it."""

    @property
    def figure(self) -> str:
        """The name of the figure that shows the answers; empty where there is none."""
        return self.shown or (self.charts[0].name if self.charts else "")


class Number(NamedTuple):
    """A number with a value a fact, to be held against zero: what it is `of`, its name, how it is printed, and within
    which `margin` it counts as none (None: it never does).
    """

    of: str
    name: str
    series: Series
    scale: Scale
    margin: float | None = MARGIN


def tests_of(numbers: Sequence[Number], relations: Mapping[str, Sequence[int]]) -> tuple[Tested, ...]:
    """The means over facts held against zero, corrected together."""
    found = zip(numbers, estimates([one.series for one in numbers], rates=False, relations=relations), strict=True)
    return tuple(family(held_against(one.of, one.name, mean, one.scale, margin=one.margin) for one, mean in found))


def floats(values: Sequence[float | None]) -> list[float]:
    """A record's numbers, where None stands for one that there is not, as floats: nan for None."""
    return [math.nan if value is None else float(value) for value in values]


def findings_of(store: Store) -> dict[str, Findings]:
    """A run's findings by plan, for the plans whose units it has."""
    found = {}
    for name in _FILES:
        measured: Findings | None = import_module(f"{__name__}.{name}").measured(store)
        if measured is not None:
            found[name] = measured
    return found
