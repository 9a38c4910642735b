"""Averages of knockouts say what their records say; depth and Gini's coefficient are what they should be by hand."""

from dataclasses import asdict

import numpy as np
import pytest

from artifact.facts.fact import Statement
from artifact.tracing.edges import EDGES
from artifact.tracing.flow import drop_depth, flows_of, gini, knockout_numbers
from artifact.tracing.knockout import knockout_all


def test_a_row_holds_the_record_s_numbers(tiny) -> None:
    """From records of two prompts, one with the subject first, as the journal has them."""
    statements = [
        Statement(3, "The capital of France is", "France"),
        Statement(8, "LeBron James plays the sport of", "LeBron James"),
    ]
    found = knockout_all(tiny("tiny-gpt2"), statements, list(EDGES.values()), 1)
    rows = np.array([knockout_numbers(one.told()) for one in found])
    flows = flows_of(np.array([3, 8]), rows)
    assert [one.edge for one in flows.edges] == list(EDGES.values())
    for f, one in enumerate(found):
        assert flows.before_F[f] == one.before
        for m, module in enumerate(("attn", "mlp")):
            assert np.flatnonzero(flows.first_FML[f, m]).tolist() == one.extracted[module]
        lens = [one.lens[one.subject[-1]], one.lens[one.relation[-1]], one.lens[-1]]
        np.testing.assert_array_equal(flows.lens_FRL[f], lens)
        for edge, cut in zip(flows.edges, one.cuts, strict=True):
            assert edge.removed_F[f] == cut.removed
            np.testing.assert_allclose(edge.change_FL[f], (np.array(cut.after) - one.before) / one.before)
            for m, module in enumerate(("attn", "mlp")):
                assert edge.first_FML[f, m].tolist() == [float(bool(layers)) for layers in cut.extracted[module]]
    assert flows.edge("subject-relation").removed_F.tolist() == [3, 0] and flows.edge("nothing") is None
    assert "case_id" in asdict(found[0]) and "case_id" not in found[0].told()


def test_where_the_probability_drops() -> None:
    change_FL = np.array([[-1.0, 0, 0, 0], [0, 0.5, 0, -0.2], [-0.1, -0.1, -0.1, -0.1], [0, -0.009, 0.3, 0]])
    assert drop_depth(change_FL) == pytest.approx([0.125, 0.875, 0.5, np.nan], nan_ok=True)


def test_gini() -> None:
    assert gini(np.full(5, 0.3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 1.0, 0])) == pytest.approx(3 / 4)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(1 / 4) and gini(np.array([1.0, 3.0, -2.0])) == pytest.approx(0.5)
    assert np.isnan(gini(np.array([-1.0, 0])))
    values = np.random.default_rng(0).random(9)
    by_pairs = np.abs(values[:, None] - values).sum() / (2 * 9 * values.sum())
    assert gini(values) == pytest.approx(by_pairs)
