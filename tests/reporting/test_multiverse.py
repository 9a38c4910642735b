"""Curves of invented specifications with a known effect and a known confounding choice: order, share, test, figure."""

import csv
import io
from itertools import product

import numpy as np
import pytest

from artifact.reporting.intervals import Series
from artifact.reporting.look import figure_bytes
from artifact.reporting.multiverse import Specification, curve_of, flipped, least_sure
from artifact.reporting.specification_curves import specification_curve

CORRUPTIONS, WINDOWS, METRICS = ("noise", "replace", "mean"), ("1", "3", "10"), ("p", "ld")


def invented(effect: float, confounded: float, facts: int = 40, seed: int = 0) -> list[Specification]:
    """Every fact has a difference of its own; under `replace` it is lower by `confounded`."""
    draw = np.random.default_rng(seed)
    own_F = effect + draw.normal(size=facts)
    found = []
    for corruption, window, metric in product(CORRUPTIONS, WINDOWS, METRICS):
        noise_F = 0.2 * draw.normal(size=facts)
        values_F = own_F + noise_F - confounded * (corruption == "replace")
        choices = {"corruption": corruption, "window": window, "metric": metric}
        unit = 100.0 if metric == "ld" else 1.0  # metrics have units of their own
        own = (corruption, window, metric) == ("noise", "10", "p")
        found.append(Specification(choices, Series(np.arange(facts), unit * values_F), own))
    return found


def test_a_known_effect_and_a_known_confounding_choice() -> None:
    curve = curve_of("F1", invented(effect=1.0, confounded=2.5))
    assert len(curve.entries) == 18 and curve.agree == 12 and curve.contradict == 6
    means = [one.estimate.mean for one in curve.entries]
    assert means == sorted(means)
    assert {one.specification.choices["corruption"] for one in curve.entries[:6]} == {"replace"}
    assert next(iter(curve.explained)) == "corruption" and curve.explained["corruption"] > 0.95
    assert curve.explained["window"] < 0.02 and curve.explained["metric"] < 0.02
    assert "12 of 18 specifications agree, 6 contradict" in curve.summary
    assert "the choice that explains most of the spread is the corruption" in curve.summary
    rows = list(csv.DictReader(io.StringIO(curve.csv.decode())))
    (own,) = [row for row in rows if row["own"]]
    assert (own["corruption"], own["window"], own["metric"]) == ("noise", "10", "p")
    assert float(own["low"]) < float(own["estimate"]) < float(own["high"])


def test_facts_of_one_relation_are_not_independent() -> None:
    """All facts of a relation alike: by facts everything is sure, by relations little is."""
    draw = np.random.default_rng(3)
    values_F = np.repeat([0.1, 2.0, -0.5, 1.5], 10) + 0.05 * draw.normal(size=40)
    found = [Specification({"metric": "p"}, Series(np.arange(40), values_F))]
    relations = {f"P{place}": list(range(10 * place, 10 * place + 10)) for place in range(4)}
    curve = curve_of("F1", found, relations)
    assert curve.agree == 1 and curve.agree_by_relation == 0
    assert "draw relations, then facts within them, 0 agree" in curve.summary
    (row,) = csv.DictReader(io.StringIO(curve.csv.decode()))
    assert float(row["low by relation"]) < 0 < float(row["low"]) < float(row["high by relation"])
    alone = curve_of("F1", found)
    assert alone.agree_by_relation is None and "relations" not in alone.summary
    (row,) = csv.DictReader(io.StringIO(alone.csv.decode()))
    assert row["low by relation"] == ""


def test_specifications_without_a_choice_do_not_count_for_it() -> None:
    """Accuracy is measured without a foil, so its distance from success must not count as the foil's."""
    draw, found = np.random.default_rng(0), []
    for number in range(12):
        for foil in ("none", "another"):
            values_F = 1 + draw.normal(size=30)
            found.append(
                Specification({"metric": "success", "foil": foil, "n": str(number)}, Series(np.arange(30), values_F))
            )
        values_F = draw.normal(size=30)
        found.append(Specification({"metric": "accuracy", "n": str(number)}, Series(np.arange(30), values_F)))
    curve = curve_of("T1", found)
    assert curve is not None and curve.explained["metric"] > 0.8 and curve.explained["foil"] < 0.2


def test_the_share_counts_specifications_without_a_spread() -> None:
    """Such as accuracies that are zero in every fact: they do not agree; those that gain one in every fact do."""
    facts = np.arange(40)
    alike = [
        Specification({"metric": "a", "n": str(n)}, Series(facts, np.full(40, value)))
        for n, value in enumerate((0.0, 0.0, 0.0, 1.0, -1.0))
    ]
    empty = Specification({"metric": "b"}, Series(np.array([], dtype=np.int64), np.array([])))
    curve = curve_of("F1", [*invented(effect=1.0, confounded=2.5), *alike, empty])
    assert curve is not None and (curve.few, curve.alike, curve.alike_agree) == (1, 5, 1)
    assert (curve.share.mean, curve.share.n) == (pytest.approx(13 / 23), 23)


def test_an_estimate_is_in_standard_deviations() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    (one,) = curve_of("F1", [Specification({"metric": "p"}, Series(np.arange(5), values))]).entries
    assert one.estimate.mean == pytest.approx(3 / np.std(values, ddof=1))


def test_without_an_effect_the_test_is_seldom_sure() -> None:
    """Under no effect a familywise p-value below 0.05 occurs in about one curve of twenty, the median's as well."""
    sure = median = 0
    for seed in range(60):
        curve = curve_of("F1", invented(effect=0, confounded=0, facts=15, seed=seed))
        sure += min(one.p for one in curve.entries) < 0.05
        median += curve.median_p < 0.05
    assert sure <= 9 and median <= 9  # 3 expected; more than 9 in one of a thousand


def test_the_least_sure_of_several_differences_seldom_contradicts_by_chance() -> None:
    """Five differences without an effect: the least sure lies low, and its plain interval below zero far too often."""
    draw, plain, bonferroni, median = np.random.default_rng(7), 0, 0, 0
    for _ in range(200):
        found = [Series(np.arange(20), draw.normal(size=20)) for _ in range(5)]
        least = least_sure(found)
        curve = curve_of("F4", [Specification({"metric": "p"}, least, of=5)])
        plain += curve.entries[0].estimate.high < 0
        bonferroni += curve.contradict
        median += curve.median_p < 0.05
    assert plain > 15 and bonferroni <= 12 and median <= 12  # of a test at 2.5% and one at 5%


def test_signs_are_flipped_for_all_specifications_together() -> None:
    """The same facts twice are one specification: the p-value is that of one, not of two."""
    one = invented(effect=0.3, confounded=0)[0].differences
    alone, _ = flipped([one])
    twice, median = flipped([one, one])
    assert alone[0] == twice[0] == twice[1] and median == pytest.approx(alone[0] / 2, abs=0.01)  # one-sided
    assert flipped([Series(one.cases_N, -one.values_N)])[1] == pytest.approx(1 - median, abs=0.01)
    strong = Series(one.cases_N, np.abs(one.values_N))
    assert flipped([strong])[0][0] == pytest.approx(1 / 2000)


def test_specifications_of_few_facts_are_left_out_and_counted() -> None:
    alike = Specification({"metric": "p"}, Series(np.arange(6), np.ones(6)))
    few = Specification({"metric": "p"}, Series(np.arange(4), np.arange(4.0)))
    assert curve_of("F1", [alike, few]) is None
    curve = curve_of("F1", [few, *invented(1.0, 0.0)])
    assert (len(curve.entries), curve.few) == (18, 1)
    assert curve.summary.endswith("; 1 more rest on fewer than 5 facts and are left out")


def test_two_hundred_specifications_are_drawn_the_same_each_time() -> None:
    specifications = [
        Specification({**one.choices, "direction": str(n)}, one.differences, one.own and n == 0)
        for n in range(12)
        for one in invented(0.2, 0.4, facts=12, seed=n)
    ]
    curve = curve_of("F2", specifications)
    assert len(curve.entries) == 216
    assert figure_bytes(lambda: specification_curve(curve), "png") == figure_bytes(
        lambda: specification_curve(curve), "png"
    )


def test_one_specification_far_away_does_not_flatten_the_others() -> None:
    """It lies outside the axis, is marked by an arrow and keeps its place in the file."""
    ordinary = invented(effect=1.0, confounded=0.5)
    far_F = -500.0 + 0.9 * np.random.default_rng(1).normal(size=40)
    far = Specification({"corruption": "noise", "window": "99", "metric": "p"}, Series(np.arange(40), far_F))
    curve = curve_of("F1", [far, *ordinary])
    assert [place for place, _ in curve.outside] == [0] and curve.entries[0].estimate.mean < -400
    above, _ = specification_curve(curve).axes
    low, high = above.get_ylim()
    assert -10 < low < 0 < high < 10
    assert f"{curve.entries[0].estimate.mean:.0f}" in [text.get_text() for text in above.texts]
    assert not curve_of("F1", ordinary).outside
    assert b"-5" in curve.csv.splitlines()[1]


def test_of_several_differences_the_least_sure_stands_for_the_finding() -> None:
    facts = np.arange(6)
    sure, unsure = Series(facts, 10.0 + facts), Series(facts, facts - 2.0)
    always, never = Series(facts, np.ones(6)), Series(facts, -np.ones(6))
    assert least_sure([sure, unsure]) is unsure and least_sure([always, unsure]) is unsure
    assert least_sure([never, unsure]) is never  # which has no standard deviation: the curve leaves it out and says so
    assert least_sure([sure, None]) is None and least_sure([]) is None
    curve = curve_of("T1", [Specification({"metric": "p"}, never), *invented(1.0, 0.0)])
    assert (len(curve.entries), curve.alike) == (18, 1)
    assert curve.summary.endswith("; 1 more have the same difference in every fact (0 above zero) and are left out")
