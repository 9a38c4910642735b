"""Cells and grids: what a table says at each place, before any form of it is written.

Covers how a number is written (its scale), a cell's parts as text, and the lines of a grid. The templates (HTML, LaTeX,
Markdown) and escapes.py (CSV) ask a cell for its parts; none takes a text apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from artifact.evaluation.metrics import Metric
from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate

_LOOKS: dict[str, Literal["good", "bad"]] = {
    "reproduced": "good",
    "outside tolerance": "bad",
    "holds": "good",
    "does not hold": "bad",
}
EMPTY = "n/a"
CHANGE = "change against unedited"


def look_of(states: Iterable[str]) -> Literal["good", "bad", "wait"]:
    """How the page marks states together: as bad where one is, as good where all are, else as waiting."""
    looks = {_LOOKS.get(state, "wait") for state in states}
    return "bad" if "bad" in looks else "good" if looks == {"good"} else "wait"


@dataclass(frozen=True)
class Scale:
    """How numbers are written: times `factor`, with so many decimals; a change with its sign."""

    decimals: int
    factor: float = 1.0
    signed: bool = False

    def __call__(self, value: float) -> Number:
        text = f"{value * self.factor:{'+' if self.signed else ''}.{self.decimals}f}"
        # A change that rounds to nothing has no sign.
        return Number(text if float(text) else text.lstrip("+-"))

    @property
    def of_change(self) -> "Scale":
        """The same for differences."""
        return Scale(self.decimals, self.factor, signed=True)

    @property
    def of_size(self) -> "Scale":
        """The same for sizes of differences, which have no sign."""
        return Scale(self.decimals, self.factor)


COUNT, POINTS, PROBABILITY = Scale(0), Scale(2), Scale(3)
"""Of whole numbers, of values that are percent already, and of probabilities."""
SCALES: dict[Metric, Scale] = {"success": Scale(1, 100), "accuracy": Scale(1, 100), "magnitude": PROBABILITY}
"""Fractions are printed as percent, magnitudes as they are."""
UNITS: dict[Metric, str] = {"success": "percent", "accuracy": "percent", "magnitude": "probability"}


@dataclass(frozen=True)
class Cell:
    """One number of a table: its mean (None: not measured), the ends of its 95% interval, the number of cases, a state.

    Numbers are in the unit of the values; `scale` writes them. `published` is the printed value that the number stands
    beside, with its tolerance.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    state: str = ""
    scale: Scale = POINTS
    published: tuple[float, float] | None = None

    @classmethod
    def of(cls, estimate: Estimate | None, scale: Scale, state: str = "") -> "Cell":
        """The cell of an estimate; without one, of nothing measured."""
        if estimate is None:
            return cls(None, scale=scale, state=state)
        return cls(estimate.mean, estimate.low, estimate.high, estimate.n, state, scale)

    @property
    def number(self) -> Number:
        """The mean as it is printed, or what stands for none."""
        return Number(EMPTY) if self.mean is None else self.scale(self.mean)

    @property
    def bounds(self) -> str:
        """The interval's ends; empty where there is none."""
        return "" if self.low is None or self.high is None else f"{self.scale(self.low)}, {self.scale(self.high)}"

    @property
    def interval(self) -> str:
        """The interval in brackets; empty where there is none."""
        return f"[{self.bounds}]" if self.bounds else ""

    @property
    def value(self) -> str:
        """The published value."""
        return "" if self.published is None else str(self.scale(self.published[0]))

    @property
    def tolerance(self) -> str:
        """The published value's tolerance."""
        return "" if self.published is None else f"{self.published[1]:g}"

    @property
    def difference(self) -> Number:
        """Measured minus published; empty without either."""
        if self.published is None or self.mean is None:
            return Number()
        return self.scale.of_change(self.mean - self.published[0])

    @property
    def numbers(self) -> list[Number]:
        """Mean, low, high and n for four columns of a file; each empty where it is missing."""
        numbers = (self.mean, self.low, self.high)
        return [*(Number() if x is None else self.scale(x) for x in numbers), Number("" if self.n is None else self.n)]

    def __str__(self) -> str:
        """The cell in one line, as Markdown and CSV hold it."""
        here = f"{self.number} {self.interval}" if self.interval else str(self.number)
        if self.published is None:
            return here
        beside = "" if self.mean is None else f"; {here} n={self.n}: {self.state}"
        return f"{self.value} (tolerance {self.tolerance}){beside}"


@dataclass(frozen=True)
class Line:
    """One line of a grid: its first columns as text, then its cells, and the cells of its change, if it has one.

    `counts` are the cases finished, failed and excluded. `status` is a whole line's, in words. `settings` is the hash
    of what an edit was made with.
    """

    heads: tuple[str, ...]
    cells: tuple[Cell | str, ...] = ()
    changes: tuple[Cell, ...] = ()
    counts: tuple[int, int, int] | None = None
    status: str = ""
    settings: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: `name` is its file's stem, `caption` says metric, unit and n.

    `heads` are headed columns of text, `columns` those of cells. Counts and status have columns where lines have them.
    """

    name: str
    title: str
    caption: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def counted(self) -> bool:
        return any(line.counts for line in self.lines)

    @property
    def judged(self) -> bool:
        return any(line.status for line in self.lines)

    @property
    def header(self) -> tuple[str, ...]:
        """The header of the flat table: every column has its own name."""
        return (
            *self.heads,
            *self.columns,
            *(("status",) if self.judged else ()),
            *(("n", "failed", "excluded") if self.counted else ()),
        )

    @property
    def rows(self) -> list[tuple[Cell | str | int, ...]]:
        """The flat table's rows: a change stands in a row of its own, under its line's."""
        rows: list[tuple[Cell | str | int, ...]] = []
        for line in self.lines:
            rows.append((*line.heads, *line.cells, *((line.status,) if self.judged else ()), *(line.counts or ())))
            if line.changes:
                rows.append((CHANGE, *line.heads[1:], *line.changes, *([""] * 3 if self.counted else ())))
        return rows


def grid_csv(grid: Grid) -> bytes:
    """A grid as a flat table."""
    return csv_bytes(grid.header, grid.rows)
