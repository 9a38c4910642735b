"""Lines by layer as data: panels of lines with 95% bands, for the figures of the questions beyond the paper.

Covers their CSV and words. curves.py draws them.
"""

from dataclasses import dataclass

from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate


@dataclass(frozen=True)
class LayerLine:
    """One line: its name, and at each layer (`layers`) the estimate, None where there is none."""

    name: str
    layers: tuple[int, ...]
    estimates: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class LinePanel:
    """Lines on one pair of axes."""

    title: str
    lines: tuple[LayerLine, ...]


@dataclass(frozen=True)
class LineChart:
    """Panels of lines by layer on one scale; `of_layers` is the model's number of layers, `axis` what is measured."""

    name: str
    title: str
    summary: str
    axis: str
    of_layers: int
    panels: tuple[LinePanel, ...]

    @property
    def fingerprint(self) -> bytes:
        """What the figure is drawn from."""
        return repr(self).encode()

    @property
    def csv(self) -> bytes:
        """The figure's numbers, one a line."""
        rows: list[list[object]] = []
        for panel in self.panels:
            for line in panel.lines:
                for layer, one in zip(line.layers, line.estimates, strict=True):
                    numbers = ["", "", "", ""] if one is None else _numbers(one)
                    rows.append([panel.title, line.name, layer, *numbers])
        return csv_bytes(("panel", "line", "layer", "mean", "low", "high", "n"), rows)


def _numbers(one: Estimate) -> list[object]:
    return [*(Number(f"{x:.6f}") for x in (one.mean, one.low, one.high)), one.n]
