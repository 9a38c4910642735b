"""Means with 95% intervals, and paired changes between two sets of cases, for many numbers at once.

Covers Wilson's interval for values that are all 0 or 1, and the bias-corrected and accelerated (BCa) bootstrap of the
mean for all others, seeded (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14). Facts of one
relation are not independent, so beside these stands the percentile bootstrap that draws relations, then facts within
them (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8), where relations are known.

Both are written out here: scipy's BCa interval takes every leave-one-out sample, which is n squared work, where a
mean's are known in closed form, and its Wilson interval comes with an exact test that takes milliseconds. A report
needs hundreds of each. tests/reporting/test_intervals.py holds them equal to scipy's, on equal resamples.

Shape letters: N cases, K numbers, B resamples, R relations.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
class Spread:
    """What tests of a mean need (equivalence.py): its standard error, with the degrees of freedom.

    It is the larger of two: over facts, and over relations, whose sums of deviations are what is independent (Liang and
    Zeger 1986). `inflated` is its square over that over facts alone. `whole` is the value of a success where values are
    successes and failures, else None. `low` and `high` are the 95% interval by relation; nan where fewer than two
    relations are known, of which there are `relations`.
    """

    error: float
    freedom: int
    inflated: float = 1.0
    whole: float | None = None
    relations: int = 0
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` cases with its 95% interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int
    spread: Spread | None = field(default=None, compare=False, repr=False)
    """None where the number is not a mean over facts."""

    def scaled(self, factor: float) -> "Estimate":
        """The same estimate in another unit, such as 100 for percent; `factor` must be positive."""
        spread = self.spread
        if spread is not None:
            whole = None if spread.whole is None else spread.whole * factor
            ends = {name: getattr(spread, name) * factor for name in ("error", "low", "high")}
            spread = replace(spread, whole=whole, **ends)
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.n, spread)


@dataclass(frozen=True)
class Series:
    """One value a case: case ids in ascending order (N,) and values (N,)."""

    cases_N: np.ndarray
    values_N: np.ndarray

    @classmethod
    def of(cls, values: Sequence[tuple[int, float]]) -> "Series":
        """Of a case's id and its value each, the ids in ascending order."""
        return cls(np.array([case for case, _ in values]), np.array([value for _, value in values]))

    @classmethod
    def finite(cls, cases_N: np.ndarray, values_N: np.ndarray) -> "Series":
        """Of the cases that have a number: nan stands for none."""
        whole_N = np.isfinite(values_N)
        return cls(cases_N[whole_N], values_N[whole_N])

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


def estimates(
    samples: Sequence[Series], rates: Sequence[bool] | bool = True, relations: Mapping[str, Sequence[int]] | None = None
) -> list[Estimate | None]:
    """Mean and 95% interval of each sample, in its unit; None for a sample without cases.

    Wilson where every value is 0 or 1 (unless `rates` is off for it: a difference is no rate), else BCa; a single case,
    or cases that are all alike, give the point itself. Cases are what is resampled, the same for all samples; where a
    few of them are missing (failures), these drop out of a resample. Samples that miss many are resampled apart.
    `relations` are the case ids of each relation, for the spread; a case of none is one of its own.
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
    for group in _together(samples, drawn):
        for k, means_B in zip(group, _resampled_means([samples[k] for k in group]), strict=True):
            means[k] = _estimate(samples[k].values_N, means_B)
    spreads = _spreads(samples, may_be_rate, relations or {})
    return [None if one is None else replace(one, spread=spread) for one, spread in zip(means, spreads, strict=True)]


def harmonic_means(groups: Sequence[Sequence[Series]]) -> list[Estimate | None]:
    """The harmonic mean of each group's means, zero where one is zero, with a 95% percentile interval from resamples of
    the cases, the same for all of a group; None where a sample has no case. `n` is the fewest cases of a sample.

    Groups over nearly the same cases share their resamples, as samples do in `estimates`.
    """
    found: list[Estimate | None] = [None] * len(groups)
    whole = [g for g, samples in enumerate(groups) if samples and all(len(one.values_N) for one in samples)]
    cases = [Series(every_N, every_N) for every_N in map(_all_cases, groups)]
    for together in _together(cases, whole):
        means_KB = _resampled_means([one for g in together for one in groups[g]])
        for g in together:
            own_KB, means_KB = np.split(means_KB, [len(groups[g])])
            mean = float(_harmonic(np.array([one.values_N.mean() for one in groups[g]])))
            low, high = np.quantile(_harmonic(own_KB), (0.025, 0.975))
            found[g] = _holding(mean, float(low), float(high), min(len(one.values_N) for one in groups[g]))
    return found


def _harmonic(means_K: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(len(means_K) / (1 / means_K).sum(0))


def _together(samples: Sequence[Series], chosen: Sequence[int]) -> list[list[int]]:
    """The samples that are resampled together: those with nearly all cases, and of the others those that have the same.

    One of the latter is the same as if it were alone: its own cases are drawn, from the same seed. Units of a
    run that is not finished have few of the cases, and thousands of numbers of each.
    """
    cases = len(_all_cases([samples[k] for k in chosen]))
    most = [k for k in chosen if len(samples[k].cases_N) >= (1 - _MISSING) * cases]
    others: dict[bytes, list[int]] = {}
    for k in sorted({*chosen} - {*most}):
        others.setdefault(samples[k].cases_N.tobytes(), []).append(k)
    return [most, *others.values()]


def _spreads(
    samples: Sequence[Series], may_be_rate: Sequence[bool], relations: Mapping[str, Sequence[int]]
) -> list[Spread | None]:
    """The spread of each sample; None for one without cases."""
    label_of = {case: at for at, cases in enumerate(relations.values()) for case in cases}
    sets = {
        key: _labels(cases_N, label_of) if label_of else np.arange(len(cases_N))
        for key, cases_N in _sets(samples).items()
    }
    spreads = [
        _spread(series.values_N, sets[series.cases_N.tobytes()], rate, bool(label_of))
        for series, rate in zip(samples, may_be_rate, strict=True)
    ]
    several = [k for k, spread in enumerate(spreads) if spread is not None and spread.relations > 1]
    for group in _together(samples, several):
        chosen = [samples[k] for k in group]
        labels_N = _labels(_all_cases(chosen), label_of)
        for k, means_B in zip(group, _resampled_means(chosen, labels_N), strict=True):
            spread = spreads[k]
            assert spread is not None
            low, high = np.quantile(means_B[np.isfinite(means_B)], (0.025, 0.975))
            spreads[k] = replace(spread, low=float(low), high=float(high))
    return spreads


def _labels(cases_N: np.ndarray, label_of: Mapping[int, int]) -> np.ndarray:
    """Each case's relation by a number; a case without one has a number of its own."""
    known_N = [label_of.get(int(case), -1 - at) for at, case in enumerate(cases_N)]
    return np.unique(np.array(known_N, dtype=np.int64), return_inverse=True)[1]


def _spread(values_N: np.ndarray, labels_N: np.ndarray, rate: bool, related: bool) -> Spread | None:
    """The spread of one sample, without its interval by relation; `labels_N` are numbers from 0, `related` says that
    they are relations.
    """
    n = len(values_N)
    if n == 0:
        return None
    whole = 1.0 if rate and ((values_N == 0) | (values_N == 1)).all() else None
    count = int(labels_N.max()) + 1 if related else 0
    if n == 1 or np.ptp(values_N) == 0:
        return Spread(0.0, max(n - 1, 1), whole=whole, relations=count)
    plain = float(values_N.std(ddof=1)) / math.sqrt(n)
    if count < 2:
        return Spread(plain, n - 1, whole=whole, relations=count)
    sums_R = np.bincount(labels_N, values_N - values_N.mean())
    clustered = math.sqrt(count / (count - 1) * float((sums_R**2).sum())) / n
    if clustered <= plain:
        return Spread(plain, n - 1, whole=whole, relations=count)
    return Spread(clustered, count - 1, (clustered / plain) ** 2, whole, count)


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


def _resampled_means(samples: Sequence[Series], labels_N: np.ndarray | None = None) -> np.ndarray:
    """Means of RESAMPLES resamples (K, B): the same cases are drawn for every number.

    With each case's relation in `labels_N` (numbers from 0) relations are drawn, then facts within them; the mean is
    nan where a resample holds no case of the number.
    """
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
        drawn: Iterable[np.ndarray] = (
            draw.integers(n, size=(size, n)) if labels_N is None else _within(labels_N, size, draw)
        )
        for counts_N, drawn_N in zip(counts_BN, drawn, strict=True):
            counts_N[:] = np.bincount(drawn_N, minlength=n)
        held_PB = present_PN @ counts_BN.T
        means_KB[:, start : start + size] = values_KN @ counts_BN.T / np.maximum(held_PB, 1)[columns]
        if labels_N is not None:  # few relations: a resample may have none that the number has
            means_KB[:, start : start + size][held_PB[columns] == 0] = np.nan
    return means_KB


def _within(labels_N: np.ndarray, size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """So many resamples, as places of cases: as many relations as there are, and of each as many facts as it has."""
    by_relation_N = np.argsort(labels_N, kind="stable")
    facts_R = np.bincount(labels_N)
    start_R = np.cumsum(facts_R) - facts_R
    for drawn_R in draw.integers(len(facts_R), size=(size, len(facts_R))):
        facts_N = np.repeat(facts_R[drawn_R], facts_R[drawn_R])
        inside_N = (draw.random(len(facts_N)) * facts_N).astype(np.int64)
        yield by_relation_N[np.repeat(start_R[drawn_R], facts_R[drawn_R]) + inside_N]


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
