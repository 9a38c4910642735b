"""All figures of a run as data, in the order of the page: success after each edit, heat maps, severed effects,
attention knockouts, and those of the questions beyond the paper.

Covers naming and choosing them. Loads no matplotlib; figures.py draws them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from artifact.errors import SettingError
from artifact.reporting.charts import Chart, charts
from artifact.reporting.edit_charts import EditChart, edit_charts
from artifact.reporting.flow_charts import FlowChart, finished_flows, flow_charts
from artifact.reporting.line_charts import LineChart
from artifact.reporting.mark_charts import MarkChart
from artifact.reporting.multiverse import Curve
from artifact.reporting.severed import SeveredChart, severed_charts
from artifact.reporting.tables import JudgedRow
from artifact.reporting.verdict import MeasuredRun

Shown = Chart | SeveredChart | EditChart | MarkChart | FlowChart | LineChart | Curve


@dataclass(frozen=True)
class Gallery:
    """A run's figures by kind."""

    edits: tuple[EditChart, ...]
    traces: tuple[Chart, ...]
    severed: tuple[SeveredChart, ...]
    flows: tuple[FlowChart, ...]
    questions: tuple[LineChart | MarkChart | Curve, ...] = ()

    @property
    def every(self) -> tuple[Shown, ...]:
        """All of them, in the order of the page."""
        return (*self.edits, *self.traces, *self.severed, *self.flows, *self.questions)


def gallery(run: MeasuredRun, paper: Sequence[JudgedRow]) -> Gallery:
    """The figures of a run. `paper` are the published rows, shown beside a run that counts as evidence."""
    drawn = charts(run.store, run.traced.traces)
    beside = paper if run.info.evidence else ()
    return Gallery(
        tuple(edit_charts(run.info.model, run.begun, beside)),
        tuple(drawn),
        tuple(severed_charts(drawn)),
        tuple(flow_charts(finished_flows(run.store))),
        tuple(chart for findings in run.findings.values() for chart in findings.charts),
    )


def chosen(every: Sequence[tuple[str, Shown]], only: Sequence[str]) -> list[tuple[str, Shown]]:
    """The figures of these names, or all without a name; SettingError for a name that none has."""
    names = [name for name, _ in every]
    for name in only:
        if name not in names:
            known = ", ".join(names) or "no figure: nothing is finished in it"
            raise SettingError(f"--only {name[:60]!r} is not a figure of this run; it has {known}")
    return [(name, one) for name, one in every if not only or name in only]
