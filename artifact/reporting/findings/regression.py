"""How much of an edit's success a fact's indirect effect explains beside the layer: R squared gained, Spearman's rho.

Covers the regression of Hase et al. (arXiv 2301.04213): scores of facts at layers on the layer, and on the layer and
the fact's effect there; and the rank correlation over facts at each layer, averaged over layers. Intervals are 95%
percentiles of resampled facts.

Shape letters: F fact, L layer, B resample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from artifact.reporting.intervals import RESAMPLES, Estimate

_SEED = 2409
_LEAST = 3
"""Facts below which nothing is computed."""


@dataclass(frozen=True)
class Explained:
    """What explains scores: R squared of the layer alone, what the effects add to it, and rho."""

    of_layer: Estimate
    gained: Estimate
    rho: Estimate | None


def explained(score_FL: np.ndarray, effect_FL: np.ndarray) -> Explained | None:
    """The regression over the facts that have all scores and effects; None below three of them, or where either has no
    variance.
    """
    whole_F = np.isfinite(score_FL).all(1) & np.isfinite(effect_FL).all(1)
    score_FL, effect_FL = score_FL[whole_F], effect_FL[whole_F]
    if len(score_FL) < _LEAST or not np.ptp(score_FL) > 0 or not np.ptp(effect_FL) > 0:
        return None

    def of_layer(chosen_F: np.ndarray) -> float:
        return _r_squared(score_FL[chosen_F], effect_FL[chosen_F])[0]

    def gained(chosen_F: np.ndarray) -> float:
        return _r_squared(score_FL[chosen_F], effect_FL[chosen_F])[1]

    def rho(chosen_F: np.ndarray) -> float:
        return _rho(score_FL[chosen_F], effect_FL[chosen_F])

    first, second = _resampled(of_layer, len(score_FL)), _resampled(gained, len(score_FL))
    assert first is not None and second is not None
    return Explained(first, second, _resampled(rho, len(score_FL)))


def _r_squared(score_FL: np.ndarray, effect_FL: np.ndarray) -> tuple[float, float]:
    """R squared of layer means, and what one slope on the effects adds (Frisch, Waugh and Lovell)."""
    total = ((score_FL - score_FL.mean()) ** 2).sum()
    if not total > 0:
        return np.nan, np.nan
    left_FL, beside_FL = score_FL - score_FL.mean(0), effect_FL - effect_FL.mean(0)
    spread = (beside_FL**2).sum()
    added = (left_FL * beside_FL).sum() ** 2 / spread if spread > 0 else 0.0
    return float(1 - (left_FL**2).sum() / total), float(added / total)


def _rho(score_FL: np.ndarray, effect_FL: np.ndarray) -> float:
    """The mean over layers of Spearman's rho over facts; layers where one of the two does not vary are left out."""
    one_FL, other_FL = (ranks - ranks.mean(0) for ranks in (_ranks(score_FL), _ranks(effect_FL)))
    spread_L = np.sqrt((one_FL**2).sum(0) * (other_FL**2).sum(0))
    varies_L = spread_L > 0
    if not varies_L.any():
        return np.nan
    return float(((one_FL * other_FL).sum(0)[varies_L] / spread_L[varies_L]).mean())


def _ranks(values_FL: np.ndarray) -> np.ndarray:
    """Each layer's ranks of the facts, from 1; ties have their mean rank."""
    below_FL = (values_FL[:, None] > values_FL[None]).sum(1)
    same_FL = (values_FL[:, None] == values_FL[None]).sum(1)
    return below_FL + (same_FL + 1) / 2


def _resampled(statistic: Callable[[np.ndarray], float], facts: int) -> Estimate | None:
    """The statistic of all facts with the 95% percentiles of resamples; None where it cannot be computed."""
    whole = statistic(np.arange(facts))
    if not np.isfinite(whole):
        return None
    draw = np.random.default_rng(_SEED)
    drawn_B = np.array([statistic(draw.integers(facts, size=facts)) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(drawn_B, (0.025, 0.975))
    return Estimate(whole, min(float(low), whole), max(float(high), whole), facts)
