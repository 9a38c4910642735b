"""Means with 95% intervals, and paired changes between two sets of cases.

Covers Wilson's interval for values that are all 0 or 1, and the bias-corrected and accelerated (BCa) bootstrap of the
mean for all others, seeded; both are scipy's. It compares nothing with the paper (verdict.py) and knows no metric.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 1999
_BATCH = 200
_SEED = 2409


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` cases with its 95% interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int

    def scaled(self, factor: float) -> "Estimate":
        """The same estimate in another unit, such as 100 for percent; `factor` must be positive."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.n)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95% interval of one value a case, in their unit; None without cases.

    Wilson when every value is 0 or 1, else BCa; a single case, or cases that are all alike, give the point itself.
    """
    if not len(values):
        return None
    found = np.asarray(values, dtype=float)
    if np.isin(found, (0.0, 1.0)).all():
        return wilson(int(found.sum()), len(found))
    return _bca(found)


def paired_change(before: Mapping[int, float], after: Mapping[int, float]) -> Estimate | None:
    """Mean of after - before over the cases that both have, with its BCa 95% interval, in the unit of the values.

    None without a common case. Where every case changed alike the interval is the point itself.
    """
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    return _bca(np.array([after[case] - before[case] for case in common], dtype=float))


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes among `n` >= 1 trials with Wilson's 95% score interval, as fractions."""
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return _holding(successes / n, float(found.low), float(found.high), n)


def _bca(values: np.ndarray) -> Estimate:
    n = len(values)
    # fsum rounds once, so that equal cases give their own value back.
    mean = math.fsum(values) / n
    if n == 1 or np.ptp(values) == 0:
        return Estimate(float(values[0]), float(values[0]), float(values[0]), n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, batch=_BATCH, method="BCa", rng=np.random.default_rng(_SEED)
        ).confidence_interval
    if math.isnan(found.low) or math.isnan(found.high):
        # Cases that differ in their last bits alone: their range is all there is to say.
        return _holding(mean, float(values.min()), float(values.max()), n)
    return _holding(mean, float(found.low), float(found.high), n)


def _holding(mean: float, low: float, high: float, n: int) -> Estimate:
    """The interval, widened by a rounding error where it would leave out its own mean."""
    return Estimate(mean, min(low, mean), max(high, mean), n)
