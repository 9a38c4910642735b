"""Means with 95% intervals, and paired changes between two sets of cases, for many numbers at once.

Covers Wilson's interval for values that are all 0 or 1, and the bias-corrected and accelerated (BCa) bootstrap of the
mean for all others, seeded (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14).

Both are written out here: scipy's BCa interval takes every leave-one-out sample, which is n squared work, where a
mean's are known in closed form, and its Wilson interval comes with an exact test that takes milliseconds. A report
needs hundreds of each. tests/reporting/test_intervals.py holds them equal to scipy's, on equal resamples.

Shape letters: N cases, K numbers, B resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 1000
"""An interval's end then has a standard error of 4% of half the interval's width."""
_BLOCK = 250
"""Resamples drawn together: their counts of 7,500 cases take 15 MB."""
_MISSING = 0.1
"""Share of the cases that a number may miss and still be resampled with the others."""
_SEED = 2409
_NORMAL = NormalDist()
_Z = tuple(_NORMAL.inv_cdf(level) for level in (0.025, 0.975))


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


@dataclass(frozen=True)
class Series:
    """One value a case: case ids in ascending order (N,) and values (N,)."""

    cases_N: np.ndarray
    values_N: np.ndarray

    def among(self, cases_N: np.ndarray) -> "Series":
        """The same, of these cases alone."""
        if np.array_equal(self.cases_N, cases_N):
            return self
        has_N = np.isin(self.cases_N, cases_N, assume_unique=True)
        return Series(self.cases_N[has_N], self.values_N[has_N])

    def minus(self, other: "Series") -> "Series":
        """The difference, over the cases that both have."""
        here, there = self.among(other.cases_N), other.among(self.cases_N)
        return Series(here.cases_N, here.values_N - there.values_N)


def paired_change(before: Series, after: Series) -> Estimate | None:
    """Mean of after - before over the cases that both have, with its BCa 95% interval; None without a common case."""
    return estimates([after.minus(before)], rates=False)[0]


def estimates(samples: Sequence[Series], rates: Sequence[bool] | bool = True) -> list[Estimate | None]:
    """Mean and 95% interval of each sample, in its unit; None for a sample without cases.

    Wilson where every value is 0 or 1 (unless `rates` is off for it: a difference is no rate), else BCa; a single case,
    or cases that are all alike, give the point itself. Cases are what is resampled, the same for all samples; where a
    few of them are missing (failures), these drop out of a resample. Samples that miss many are resampled alone.
    """
    may_be_rate = [rates] * len(samples) if isinstance(rates, bool) else rates
    means: list[Estimate | None] = [None] * len(samples)
    drawn: list[int] = []
    for k, series in enumerate(samples):
        values_N = series.values_N
        n = len(values_N)
        if n == 0:
            continue
        if may_be_rate[k] and ((values_N == 0) | (values_N == 1)).all():
            means[k] = wilson(int(values_N.sum()), n)
        elif n == 1 or np.ptp(values_N) == 0:
            means[k] = Estimate(float(values_N[0]), float(values_N[0]), float(values_N[0]), n)
        else:
            drawn.append(k)
    cases = len(_all_cases([samples[k] for k in drawn]))
    together = [k for k in drawn if len(samples[k].cases_N) >= (1 - _MISSING) * cases]
    for group in (together, *([k] for k in drawn if k not in together)):
        chosen = [samples[k] for k in group]
        for k, means_B in zip(group, _resampled_means(chosen), strict=True):
            means[k] = _estimate(samples[k].values_N, means_B)
    return means


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes among `n` >= 1 trials with Wilson's 95% score interval, as fractions."""
    share, spread = successes / n, _Z[1] ** 2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return _holding(share, max(middle - half, 0.0), min(middle + half, 1.0), n)


def bca(values_N: np.ndarray, means_B: np.ndarray) -> tuple[float, float]:
    """The 95% BCa interval of the mean of values_N, from the means of its resamples; nan where it is degenerate."""
    mean = values_N.mean()
    below = ((means_B < mean).mean() + (means_B <= mean).mean()) / 2
    if not 0 < below < 1:
        return math.nan, math.nan
    bias = _NORMAL.inv_cdf(below)
    # The mean without case i lies (x_i - mean) / (n - 1) below the mean: its third moment is that of the values.
    away_N = (values_N - mean) / np.abs(values_N - mean).max()  # scaled, so that no power of it is lost to rounding
    square_N = away_N * away_N
    acceleration = (square_N * away_N).sum() / (6 * square_N.sum() ** 1.5)
    levels = [_NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in _Z]
    low, high = np.quantile(means_B, levels)
    return float(low), float(high)


def _resampled_means(samples: Sequence[Series]) -> np.ndarray:
    """Means of RESAMPLES resamples (K, B): the same cases are drawn for every number."""
    if not samples:
        return np.empty((0, RESAMPLES))
    cases_N = _all_cases(samples)
    n = len(cases_N)
    # Samples over the same cases share their places, and a row that counts how many of these a resample holds.
    places = {key: np.searchsorted(cases_N, some_N) for key, some_N in _sets(samples).items()}
    present_PN = np.zeros((len(places), n))
    for row, at_N in enumerate(places.values()):
        present_PN[row, at_N] = 1
    rows = {key: row for row, key in enumerate(places)}
    values_KN, columns = np.zeros((len(samples), n)), []
    for k, series in enumerate(samples):
        key = series.cases_N.tobytes()
        values_KN[k, places[key]] = series.values_N
        columns.append(rows[key])
    draw = np.random.default_rng(_SEED)
    means_KB = np.empty((len(samples), RESAMPLES))
    for start in range(0, RESAMPLES, _BLOCK):
        size = min(_BLOCK, RESAMPLES - start)
        counts_BN = np.empty((size, n))
        for counts_N, drawn_N in zip(counts_BN, draw.integers(n, size=(size, n)), strict=True):
            counts_N[:] = np.bincount(drawn_N, minlength=n)
        held_PB = np.maximum(present_PN @ counts_BN.T, 1)
        means_KB[:, start : start + size] = values_KN @ counts_BN.T / held_PB[columns]
    return means_KB


def _sets(samples: Sequence[Series]) -> dict[bytes, np.ndarray]:
    """Each set of cases that samples have, once."""
    return {series.cases_N.tobytes(): series.cases_N for series in samples}


def _all_cases(samples: Sequence[Series]) -> np.ndarray:
    return np.unique(np.concatenate([*_sets(samples).values(), np.empty(0, dtype=np.int64)]))


def _estimate(values_N: np.ndarray, means_B: np.ndarray) -> Estimate:
    mean = float(values_N.mean())
    # Resamples of the same mean may differ from it in their last bits; they are ties.
    means_B = np.where(np.abs(means_B - mean) <= 1e-12 * np.abs(values_N).max(), mean, means_B)
    low, high = bca(values_N, means_B)
    if math.isnan(low):
        # Cases that differ in their last bits alone: their range is all there is to say.
        low, high = float(values_N.min()), float(values_N.max())
    return _holding(mean, low, high, len(values_N))


def _holding(mean: float, low: float, high: float, n: int) -> Estimate:
    """The interval, widened by a rounding error where it would leave out its own mean."""
    return Estimate(mean, min(low, mean), max(high, mean), n)
