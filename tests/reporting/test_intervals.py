"""Intervals against published values and scipy's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from artifact.reporting import intervals
from artifact.reporting.intervals import Estimate, Series, bca, estimates, harmonic_means, paired_change, wilson

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def series(values: Mapping[int, float]) -> Series:
    """A series from values by case id."""
    cases = sorted(values)
    return Series(np.array(cases, dtype=np.int64), np.array([values[case] for case in cases], dtype=float))


def estimate(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """The estimate of one number, from one value a case."""
    return estimates([series(dict(enumerate(values)))])[0]


def test_a_resample_without_any_fact_of_a_number_does_not_count_as_zero() -> None:
    """Relations of 45, 45 and 10 facts, the third without this number: it is drawn alone in one resample of 27."""
    values = np.random.default_rng(1).normal(0.8, 0.05, 90)
    relations = {"a": range(45), "b": range(45, 90), "c": range(90, 100)}
    whole, part = Series(np.arange(100), np.append(values, np.zeros(10))), Series(np.arange(90), values)
    _, found = estimates([whole, part], rates=False, relations={name: list(of) for name, of in relations.items()})
    assert found is not None and found.spread is not None and found.spread.relations == 2
    assert 0.75 < found.spread.low < 0.8 < found.spread.high < 0.85


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_for_zeros_and_ones_only() -> None:
    assert estimate([0.0, 1.0, 1.0]) == wilson(2, 3)
    assert estimate([0.0, 0.5, 1.0]) != wilson(1, 3)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_is_scipys(successes: int, more: int) -> None:
    n = successes + more
    found = wilson(successes, n)
    scipys = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


@dataclass
class Resampled:
    bootstrap_distribution: np.ndarray


@pytest.mark.parametrize("seed", range(6))
def test_bca_is_scipys_on_the_same_resamples(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.exponential(size=50) if seed % 2 else draw.integers(-1, 3, size=50) / 2
    means = values[draw.integers(50, size=(700, 50))].mean(1)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=0, bootstrap_result=Resampled(means), method="BCa"
    ).confidence_interval
    assert bca(values, means) == pytest.approx((scipys.low, scipys.high), rel=1e-9)


@pytest.mark.parametrize("few", [True, False])
def test_the_interval_is_that_of_scipys_own_resamples(few: bool) -> None:
    """Resamples follow one law: ends agree within their noise."""
    draw = np.random.default_rng(1)
    values = draw.integers(0, 5, size=400) / 4 if few else draw.exponential(size=400)
    found = estimate(values)
    assert found is not None
    scipys = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=2).confidence_interval
    width = scipys.high - scipys.low
    assert abs(found.low - scipys.low) < 0.08 * width and abs(found.high - scipys.high) < 0.08 * width


def test_numbers_over_the_same_cases_share_their_resamples() -> None:
    """Asked together or alone it is the same; failures drop out of a resample and change an interval by noise alone."""
    draw = np.random.default_rng(4)
    cases = np.arange(300)
    full = [Series(cases, draw.normal(size=300)), Series(cases, draw.integers(0, 3, size=300) / 2)]
    kept = np.delete(cases, [3, 70, 211])
    failed = Series(kept, full[0].values_N[kept])
    few = Series(cases[:40], draw.normal(size=40))
    nothing = Series(cases[:0], np.array([]))
    together = estimates([*full, failed, few, nothing])
    assert together[-1] is None
    for series, found in zip((*full, few), (together[0], together[1], together[3]), strict=True):
        (alone,) = estimates([series])
        assert alone is not None and found is not None
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
    (alone,), found = estimates([failed]), together[2]
    assert alone is not None and found is not None and found.mean == alone.mean and found.n == 297
    width = alone.high - alone.low
    assert abs(found.low - alone.low) < 0.1 * width and abs(found.high - alone.high) < 0.1 * width
    assert together[0] != found


def test_what_has_few_of_the_cases_is_resampled_with_what_has_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run's units in its first rounds: thousands of numbers of 32 facts beside an unedited model's of 60."""
    draw = np.random.default_rng(4)
    few, fewer, whole = (np.arange(n) for n in (32, 24, 60))
    samples = [Series(cases, draw.normal(size=len(cases))) for cases in (whole, *[few] * 30, *[fewer] * 30)]
    relations = {str(n): list(range(n, 60, 9)) for n in range(9)}
    drawn: list[int] = []
    resampled = intervals._resampled_means
    monkeypatch.setattr(intervals, "_resampled_means", lambda of, *more: drawn.append(len(of)) or resampled(of, *more))
    found = estimates(samples, rates=False, relations=relations)
    assert drawn == [1, 30, 30] * 2  # for the intervals, and for those by relation
    for sample, together in zip(samples[::10], found[::10], strict=True):
        (alone,) = estimates([sample], rates=False, relations=relations)
        assert alone is not None and together is not None and alone.spread is not None and together.spread is not None
        assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
        assert (together.spread.low, together.spread.high) == pytest.approx((alone.spread.low, alone.spread.high))


def test_bca_of_skewed_cases_leans_to_the_long_tail() -> None:
    """Exponential cases: the interval reaches further up than down, as the exact one does."""
    values = np.random.default_rng(3).exponential(size=60).tolist()
    found = estimate(values)
    assert found is not None and found == estimate(values)
    assert found.high - found.mean > 1.1 * (found.mean - found.low)
    exact = 2 * sum(values) / stats.chi2.ppf([0.975, 0.025], 2 * len(values))
    assert (found.low, found.high) == pytest.approx(tuple(exact), rel=0.12)


def test_cases_that_differ_in_their_last_bits() -> None:
    value = 0.1 + 0.2
    found = estimate([value, float(np.nextafter(value, 1)), value])
    assert found is not None and found.low <= found.mean <= found.high
    assert found.high - found.low < 1e-15


def test_many_cases_are_quick_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(5).normal(0.3, 1, size=7500)
    found = estimate(values.tolist())
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(7500), rel=0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=30))
def test_the_mean_lies_in_its_interval(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.n == len(values)
    assert found.low <= found.mean <= found.high
    assert found == estimate(values)


@given(numbers, st.integers(1, 30))
def test_equal_cases_give_the_point(value: float, n: int) -> None:
    found = estimate([value] * n)
    if value in (0.0, 1.0):
        assert found == wilson(int(value) * n, n)
    else:
        assert found == Estimate(value, value, value, n)


def test_paired_change_takes_common_cases_only() -> None:
    def change(before: dict[int, float], after: dict[int, float]) -> Estimate | None:
        return paired_change(series(before), series(after))

    found = change({3: 0.0, 2: 1.0, 1: 0.0}, {2: 0.5, 3: 0.25, 4: 9.0})
    assert found is not None and (found.mean, found.n) == (-0.125, 2)
    assert change({1: 0.0}, {2: 1.0}) is None
    assert change({1: 0.0, 2: 0.0}, {1: 1.0, 2: 1.0}) == Estimate(1.0, 1.0, 1.0, 2)
    # Differences of 0 and 1 are no rates: Wilson's interval would leave out what a change may be.
    assert change({1: 0.0, 2: 1.0}, {1: 1.0, 2: 1.0}) != wilson(1, 2)


def test_no_cases_no_estimate() -> None:
    assert estimate([]) is None


def test_scaled() -> None:
    assert Estimate(0.5, 0.25, 0.75, 4).scaled(100) == Estimate(50, 25, 75, 4)


def test_the_harmonic_mean_of_rates_is_zero_with_one_and_has_an_interval() -> None:
    draw = np.random.default_rng(4)
    rates = [Series(np.arange(300), (draw.random(300) < share).astype(float)) for share in (0.9, 0.6, 0.3)]
    zeros, without = (Series(np.arange(300), np.zeros(300)), Series(np.array([], dtype=np.int64), np.array([])))
    found, zero, none, few = harmonic_means(
        [rates, [*rates, zeros], [*rates, without], [r.among(np.arange(40)) for r in rates]]
    )
    assert found is not None and found.n == 300
    assert found.mean == pytest.approx(harmonic_mean([one.values_N.mean() for one in rates]))
    means = [harmonic_mean([one.values_N[draw.integers(300, size=300)].mean() for one in rates]) for _ in range(2000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.015)
    assert zero is not None and (zero.mean, zero.low, zero.high) == (0, 0, 0) and none is None
    # A group of few of the cases has resamples of its own, and none has another group's.
    assert harmonic_means([rates]) == [found] and few == harmonic_means([[r.among(np.arange(40)) for r in rates]])[0]
