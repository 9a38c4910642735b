"""Tests of a mean against scipy's, Holm against its paper's example, intervals by relation against a simulation."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from artifact.reporting.cells import POINTS
from artifact.reporting.equivalence import family, held_against, holm, t_above, t_quantile
from artifact.reporting.intervals import Estimate, Series, estimates


def mean_of(values, rate=False, relations=None) -> Estimate:
    (found,) = estimates([Series(np.arange(len(values)), np.asarray(values, dtype=float))], rate, relations)
    return found


def judged(estimate, target=0.0, margin=None):
    (found,) = family([held_against("all", "mean", estimate, POINTS, target, margin)])
    return found


@given(st.floats(-40, 40), st.integers(1, 8000))
@example(1e-8, 1)
def test_students_t_is_scipys(t: float, freedom: int) -> None:
    """Near zero it is scipy's that is off, by 2e-9: with one degree of freedom the tail is a half minus t / pi."""
    assert t_above(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9 if abs(t) > 1e-3 else 1e-8)


def test_students_t_near_zero() -> None:
    assert t_above(1e-8, 1) == pytest.approx(0.5 - 1e-8 / np.pi, rel=1e-14)


@pytest.mark.parametrize("level", [0.8, 0.975])
@pytest.mark.parametrize("freedom", [1, 4, 47, 7499])
def test_its_quantiles_are_scipys(level: float, freedom: int) -> None:
    assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf(level, freedom), rel=1e-9)


@pytest.mark.parametrize(("mean", "outcome"), [(0.0, "equivalent"), (3.0, "undecided"), (6.0, "different")])
def test_two_one_sided_tests_are_scipys(mean: float, outcome: str) -> None:
    draw = np.random.default_rng(1)
    values = draw.normal(size=40) * 6
    values += 50 + mean - values.mean()
    found = judged(mean_of(values), target=50, margin=3)
    below = stats.ttest_1samp(values, 53, alternative="less").pvalue
    above = stats.ttest_1samp(values, 47, alternative="greater").pvalue
    assert found.equivalent == pytest.approx(max(below, above), rel=1e-9)
    assert found.different == pytest.approx(min(1, 2 * (1 - below)), rel=1e-9)
    assert found.outcome == outcome
    assert found.difference.mean == pytest.approx(mean) and found.json["outcome"] == outcome


def test_without_a_margin_it_is_the_t_test_and_nothing_is_equivalent() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, size=30)
    found = judged(mean_of(values))
    assert found.different == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert found.equivalent is None and found.json["p_equivalent"] is None


def test_a_share_of_all_facts_is_not_certain() -> None:
    """48 of 48 against 97 percent: the binomial says that this happens once in four; of 7,500 it would be different."""
    few, many = (mean_of(np.ones(n), rate=True) for n in (48, 7500))
    assert judged(few, target=0.97, margin=0.02).outcome == "undecided"
    assert judged(many, target=0.97, margin=0.02).outcome == "different"
    assert judged(many, target=0.99, margin=0.02).outcome == "equivalent"
    assert judged(few, target=0.97, margin=0.02).detectable > 0.05
    share = mean_of(np.arange(200) < 120, rate=True)
    found = judged(share, target=0.5)
    assert found.different == pytest.approx(2 * stats.norm.sf(0.1 / np.sqrt(0.25 / 200)), rel=1e-9)
    percent = judged(share.scaled(100), target=50.0)
    assert percent.different == pytest.approx(found.different) and percent.detectable == pytest.approx(
        100 * found.detectable
    )


def test_few_facts_and_few_equal_facts_decide_nothing() -> None:
    for values, why in (
        ([1.0, 2.0, 1.5, 1.1], "fewer than 5 facts"),
        ([1.0] * 29, "fewer than 30 facts, all alike"),
    ):
        found = judged(mean_of(values), margin=0.1)
        assert (found.outcome, found.why, found.different) == ("undecided", why, None)
        assert found.words == f"undecided: {why}"
    assert judged(mean_of([1.0] * 30), margin=0.1).outcome == "different"
    assert judged(mean_of([0.0] * 30), margin=0.1).outcome == "equivalent"


def test_holm() -> None:
    """The example of Holm (1979) as R's p.adjust has it; what could not be tested is not counted."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_holm_takes_back_what_one_cell_alone_would_say() -> None:
    draw = np.random.default_rng(5)
    values = draw.normal(size=50)
    sure = mean_of(values - values.mean() + 0.3)  # t = 2.1
    alone, *_ = family([held_against("t", "one", sure, POINTS)])
    among, *_ = family([held_against("t", "one", sure, POINTS)] * 20)
    assert (alone.outcome, among.outcome) == ("different", "undecided")
    assert among.different == alone.different and among.holm_different == pytest.approx(20 * among.different)


@pytest.mark.parametrize("n", [20, 300])
def test_the_detectable_difference_is_found_four_times_in_five(n: int) -> None:
    values = np.random.default_rng(3).normal(size=n)
    found = judged(mean_of(values))
    centre = found.detectable / (values.std(ddof=1) / np.sqrt(n))
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, centre) + stats.nct.cdf(-critical, n - 1, centre)
    assert power == pytest.approx(0.8, abs=0.01)
    # Beyond a margin the true difference must be as much larger, or the test would seldom find it.
    assert judged(mean_of(values), margin=0.5).detectable == pytest.approx(0.5 + found.detectable)


def of_relations(draw, relations: int, facts: int, between: float) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Values of facts whose relations have means of their own, and the cases of each relation."""
    values = np.repeat(between * draw.normal(size=relations), facts) + draw.normal(size=relations * facts)
    return values, {f"r{r}": list(range(r * facts, (r + 1) * facts)) for r in range(relations)}


def test_the_interval_by_relation_covers_where_the_plain_one_does_not() -> None:
    """20 relations of 10 facts with a shared part: in 95 of 100 data sets the true mean of 0 should be inside."""
    draw = np.random.default_rng(6)
    plain = by_relation = falsely = 0
    for _ in range(60):
        values, relations = of_relations(draw, 20, 10, between=1.0)
        found = judged(mean_of(values, relations=relations))
        low, high, count = found.by_relation
        plain += found.difference.low <= 0 <= found.difference.high
        by_relation += low <= 0 <= high
        falsely += found.outcome == "different"
        assert count == 20
    assert by_relation >= 52 and plain < 45 and falsely <= 8


def test_without_a_shared_part_both_intervals_are_nearly_as_wide() -> None:
    values, relations = of_relations(np.random.default_rng(7), 40, 25, between=0.0)
    found = judged(mean_of(values, relations=relations))
    low, high, _ = found.by_relation
    assert 1.0 < (high - low) / (found.difference.high - found.difference.low) < 1.7
    assert found.by_relation == judged(mean_of(values, relations=relations)).by_relation


def test_of_two_numbers_each_draws_the_relations_of_its_own_cases() -> None:
    """Failures drop out; a case of no relation is one of its own; one relation alone gives no interval."""
    values, relations = of_relations(np.random.default_rng(8), 6, 5, between=2.0)
    cases = np.arange(30)
    few = Series(cases[:5], values[:5])
    whole, part, alone = estimates([Series(cases, values), Series(cases[:-1], values[:-1]), few], False, relations)
    assert (whole.spread.relations, part.spread.relations, alone.spread.relations) == (6, 6, 1)
    assert np.isnan(alone.spread.low) and whole.spread.low < part.mean < whole.spread.high
    del relations["r5"]
    (split,) = estimates([Series(cases, values)], False, relations)
    assert split.spread.relations == 10
    by_hand = np.array([(values[cases] - values.mean()).sum() for cases in np.split(np.arange(30), 6)])
    assert whole.spread.error == pytest.approx(np.sqrt(6 / 5 * (by_hand**2).sum()) / 30)
    assert (whole.spread.freedom, whole.scaled(100).spread.low) == (5, 100 * whole.spread.low)
