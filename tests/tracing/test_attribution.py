"""Attribution patching is the exact effect's first-order term, and its ranks agree with the exact cells'."""

import numpy as np
import pytest
import torch
from scipy import stats

from artifact.errors import SettingError
from artifact.facts.fact import Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.tracing.attribution import attributed, rank_correlation
from artifact.tracing.choices import METRICS
from artifact.tracing.sweep import sweep
from artifact.tracing.trace import TraceSettings, screen

IDS, SPAN = [11, 30, 7, 90, 200], [1, 2]


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
def test_a_tiny_corruption_has_the_exact_effects(model: LanguageModel, kind: str, direction: str) -> None:
    """Where little is changed, the first-order term is all there is; one layer at a time, as windows interact."""
    cells = TraceSettings(2e-4, kind, 1, samples=2, direction=direction).cells(model.decoder.layers)
    exact = sweep(model.decoder, [IDS], [SPAN], cells, Memory(10**9))
    untouched = exact.corrupted_QF if direction == "restore" else exact.clean_QF
    for q, metric in enumerate(METRICS):
        if metric == "p":
            continue  # its effects are too small for float32 here
        found_TL = attributed(model.decoder, IDS, SPAN, cells, metric)
        effects_TL = exact.metrics_QFTL[q, 0] - untouched[q, 0]
        scale = np.abs(effects_TL).max()
        np.testing.assert_allclose(found_TL, effects_TL, rtol=0, atol=0.05 * scale + 2e-5)
        assert (found_TL[0] == 0).all()  # before the corruption nothing differs


def test_a_window_is_the_sum_of_its_layers(model: LanguageModel) -> None:
    def found(window: int) -> np.ndarray:
        cells = TraceSettings(0.4, "mlp", window, samples=2).cells(model.decoder.layers)
        return attributed(model.decoder, IDS, SPAN, cells, "ld")

    single, triple = found(1), found(3)
    np.testing.assert_allclose(triple[:, 1], single[:, :3].sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(triple[:, 0], single[:, :2].sum(1), rtol=1e-5, atol=1e-6)


def test_a_fact_is_screened_with_donors_and_leaves_no_gradient_behind(model: LanguageModel) -> None:
    statement = Statement(0, "The capital of France is", "France")
    settings = TraceSettings(1.0, corruption="replace")
    found_TL = screen(model, statement, settings, "ld", ["The capital of Japan is", "The capital of Italy is"])
    assert found_TL.shape == (5, model.decoder.layers) and found_TL[3, 0] > 0
    assert not any(weight.requires_grad for weight in model.decoder.weights.values())
    assert torch.is_grad_enabled()
    with pytest.raises(SettingError, match="no form for severed traces"):
        screen(model, statement, TraceSettings(0.3, sever="mlp"), "p")


def test_ranks_with_ties() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 5, (4, 6)), draw.integers(0, 5, (4, 6))
    expected = stats.spearmanr(one.ravel(), other.ravel()).statistic
    assert rank_correlation(one, other) == pytest.approx(expected)
    assert np.isnan(rank_correlation(one, np.zeros((4, 6))))
