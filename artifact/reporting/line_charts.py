"""Lines by layer, or by another number, as data: panels with 95% bands, for the figures of what is beyond the paper.

Covers their CSV and words. curves.py draws them.
"""

from dataclasses import dataclass

from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate

LAYER = "layer"


@dataclass(frozen=True)
class LayerLine:
    """One line: its name, and at each layer (`layers`; of a chart across something else, at each of its numbers) the
    estimate, None where there is none.
    """

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
    """Panels of lines by layer on one scale; `of_layers` is the model's number of layers, `axis` what is measured.

    `across` is what the lines run over: where that is not the layer, its numbers stand side by side at equal distances.
    `side_by_side`: how many panels a row has (0: as many as the width has room for).
    """

    name: str
    title: str
    summary: str
    axis: str
    of_layers: int
    panels: tuple[LinePanel, ...]
    across: str = LAYER
    side_by_side: int = 0

    @property
    def places(self) -> tuple[int, ...]:
        """The numbers that stand side by side where the lines do not run over layers; empty where they do."""
        if self.across == LAYER:
            return ()
        return tuple(sorted({at for panel in self.panels for line in panel.lines for at in line.layers}))

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
        return csv_bytes(("panel", "line", self.across, "mean", "low", "high", "n"), rows)


def _numbers(one: Estimate) -> list[object]:
    return [*(Number(f"{x:.6f}") for x in (one.mean, one.low, one.high)), one.n]
