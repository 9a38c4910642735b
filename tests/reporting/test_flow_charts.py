"""Figures of knockouts show the means of their facts with intervals; files hold the same numbers."""

import csv
import io

import numpy as np
import pytest

from artifact.reporting.figures import figure_files
from artifact.reporting.flow_charts import extraction_csv, flow_charts, gini_csv, gini_words
from artifact.reporting.look import COLUMN_INCHES
from artifact.tracing.edges import EDGES
from artifact.tracing.flow import EdgeFlow, Flows


def flows(facts: int = 12, layers: int = 5) -> Flows:
    draw = np.random.default_rng(3)
    removed_F = np.array([0, *[2] * (facts - 1)])
    edges = tuple(
        EdgeFlow(edge, removed_F, -draw.random((facts, layers)), draw.integers(0, 2, (facts, 2, layers)).astype(float))
        for edge in EDGES.values()
    )
    first_FML = draw.integers(0, 2, (facts, 2, layers)).astype(float)
    lens_FRL = draw.random((facts, 3, layers))
    lens_FRL[0, 1] = np.nan
    return Flows(np.arange(facts), draw.random(facts), first_FML, lens_FRL, edges)


def picked(content: bytes, **named: str) -> list[dict[str, str]]:
    """The rows of a CSV file that hold these values."""
    rows = csv.DictReader(io.StringIO(content.decode()))
    return [row for row in rows if all(row[name] == value for name, value in named.items())]


def test_lines_are_means_over_the_facts_that_have_the_edge() -> None:
    found = flows()
    change, extraction, lens = flow_charts({"entity": found, "relation": flows(facts=3)})
    assert [chart.name for chart in (change, extraction, lens)] == ["knockout", "extraction", "lens"]
    (one,) = picked(change.csv, prompt="entity", line="relation to subject", layer="2")
    values_F = 100 * found.edge("relation-subject").change_FL[1:, 2]
    assert (int(one["facts"]), float(one["percent"])) == (11, pytest.approx(values_F.mean(), abs=1e-4))
    assert float(one["low"]) < values_F.mean() < float(one["high"])
    shares = [float(row["percent"]) for row in picked(extraction.csv, prompt="entity", line="MLP")]
    assert shares == pytest.approx(100 * found.first_FML[:, 1].mean(0), abs=1e-4)
    assert {row["facts"] for row in picked(lens.csv, prompt="entity")} == {"11", "12"}
    panel = change.panels[0].lines[0].by_layer
    lowest = min(range(5), key=lambda layer: panel[layer].mean)
    assert f"last token to subject {round(panel[lowest].mean)}% [" in change.summary
    assert change.summary.startswith("entity prompt, 12 facts: ") and f"] at layer {lowest}, " in change.summary
    assert flow_charts({}) == [] and change.fingerprint != extraction.fingerprint


def test_no_change_in_any_fact_has_no_width_as_a_share_of_facts_would() -> None:
    found = flows()
    found.edge("relation-subject").change_FL[:, 4] = 0  # above the last layer nobody reads the relation
    change, *_ = flow_charts({"entity": found})
    (one,) = picked(change.csv, prompt="entity", line="relation to subject", layer="4")
    assert float(one["low"]) == float(one["percent"]) == float(one["high"]) == 0


def test_extraction_with_and_without_each_edge() -> None:
    found = flows()
    table = extraction_csv({"entity": found})
    (whole,) = picked(table, removed="nothing", module="attn")
    assert float(whole["percent"]) == pytest.approx(100 * found.first_FML[:, 0].any(1).mean(), abs=1e-4)
    cut = picked(table, removed="last token to subject", module="mlp")
    expected = 100 * found.edge("last-subject").first_FML[1:, 1].mean(0)
    assert [float(row["percent"]) for row in cut] == pytest.approx(expected, abs=1e-4)
    assert [row["window about layer"] for row in cut] == list("01234")


@pytest.mark.parametrize("width", [COLUMN_INCHES, 7.0])
def test_figures_are_the_same_bytes_each_time(width: float) -> None:
    chart = flow_charts({"entity": flows(), "relation": flows(facts=4)})[0]
    files = figure_files(chart, ("png",), width)
    assert files == figure_files(chart, ("png",), width) and set(files) == {"knockout.png"}


def test_without_traces_there_is_no_coefficient() -> None:
    assert gini_words([]) == [] and picked(gini_csv([])) == []
