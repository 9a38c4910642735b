"""Specification curves: one finding under every combination of the experimenter's choices.

Covers the estimates in order with their intervals, the share that agrees with the finding, how much of the spread each
choice explains, and a sign-flip test over facts, familywise over the curve. Sources: Simonsohn, Simmons and Nelson
2020 (specification curves); Girardi et al., arXiv 2210.02794 (sign flips over all specifications together).

An estimate is the mean difference over facts divided by its standard deviation, so that choices with different units (a
probability, a logit) stand on one axis. Shape letters: S specification, F fact, P permutation (of signs).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from artifact.reporting.equivalence import LEAST_FACTS, t_quantile
from artifact.reporting.escapes import Number, csv_bytes
from artifact.reporting.intervals import Estimate, Series, estimates, wilson

FLIPS = 2000
"""Drawn signs: a p-value of 0.05 then has a standard error of 0.005."""
_SEED = 2409
_SURE, _ONE_SIDE = 0.05, 0.025
_REACH = 3.0


@dataclass(frozen=True)
class Specification:
    """One combination of choices: its level of each, and a difference a fact, in units of its own, above zero where the
    fact agrees with the finding.
    """

    choices: Mapping[str, str]
    differences: Series
    own: bool = False
    """Whether it is the paper's own."""
    of: int = 1
    """Of how many differences, all of which the finding asks for, these are the least sure."""


@dataclass(frozen=True)
class Entry:
    """A specification on the curve: its standardised estimate, and its p-value, familywise over the curve."""

    specification: Specification
    estimate: Estimate
    p: float

    @property
    def agrees(self) -> bool:
        """Whether the 95% interval lies above zero."""
        return self.estimate.low > 0

    @property
    def contradicts(self) -> bool:
        """Whether it lies below zero (`lies_below`)."""
        return lies_below(self.estimate, self.specification.of)


def lies_below(estimate: Estimate, of: int) -> bool:
    """Whether an estimate lies below zero by its 95% interval. The least sure `of` several differences often lies low
    by chance: its upper end is then Bonferroni's, by Student's t with the larger of the errors over facts and over
    relations.
    """
    spread = estimate.spread
    if of == 1 or spread is None:
        return estimate.high < 0
    return estimate.mean + t_quantile(1 - _ONE_SIDE / of, spread.freedom) * spread.error < 0


@dataclass(frozen=True)
class Curve:
    """One finding's specifications, the smallest estimate first. `median_p` is the sign-flip test of the median over
    specifications, one-sided: whether it lies above zero. `few` were left out, because they rest on fewer than
    LEAST_FACTS facts, and `alike`, because their difference is the same for every fact: it has no standard deviation.
    """

    finding: str
    entries: tuple[Entry, ...]
    median_p: float
    few: int = 0
    alike: int = 0
    alike_agree: int = 0
    """Of these, how many have a difference above zero."""
    same: int = 0
    """How many more have the numbers of one on the curve, and are left out."""

    @property
    def share(self) -> Estimate:
        """The share of the specifications that agree, of all that rest on enough facts, with Wilson's interval."""
        return wilson(self.agree + self.alike_agree, len(self.entries) + self.alike)

    @property
    def name(self) -> str:
        """Stem of the figure's files."""
        return f"curve-{self.finding}"

    @property
    def title(self) -> str:
        return f"{self.finding} under {len(self.entries)} specifications"

    @property
    def inside(self) -> tuple[float, float]:
        """The range of estimates that a figure shows: Tukey's outer fences, three quartile ranges beyond the middle
        half, so that one specification far away does not flatten all others; without end where all are alike.
        """
        low, high = np.quantile([one.estimate.mean for one in self.entries], (0.25, 0.75))
        reach = _REACH * (high - low) if high > low else math.inf
        return float(low - reach), float(high + reach)

    @property
    def outside(self) -> list[tuple[int, Entry]]:
        """The entries whose estimate lies beyond `inside`, with their places from 0."""
        low, high = self.inside
        return [(place, one) for place, one in enumerate(self.entries) if not low <= one.estimate.mean <= high]

    @property
    def fingerprint(self) -> bytes:
        """What the figure is drawn from."""
        return self.csv + repr([self.levels, self.title]).encode()

    @property
    def agree(self) -> int:
        """How many specifications agree with the finding."""
        return sum(one.agrees for one in self.entries)

    @property
    def agree_by_relation(self) -> int | None:
        """How many agree by the interval that draws relations, then facts within them; None where fewer than two
        relations are known.
        """
        spreads = [one.estimate.spread for one in self.entries]
        known = [one for one in spreads if one is not None and math.isfinite(one.low)]
        return sum(one.low > 0 for one in known) if known else None

    @property
    def contradict(self) -> int:
        """How many contradict it."""
        return sum(one.contradicts for one in self.entries)

    @property
    def sure(self) -> int:
        """How many agree with a familywise p-value below 0.05."""
        return sum(one.agrees and one.p < _SURE for one in self.entries)

    @property
    def levels(self) -> dict[str, list[str]]:
        """The levels of every choice, in the order in which they first occur."""
        found: dict[str, list[str]] = {}
        for one in self.entries:
            for choice, level in one.specification.choices.items():
                levels = found.setdefault(choice, [])
                if level not in levels:
                    levels.append(level)
        return {choice: sorted(levels, key=_natural) for choice, levels in found.items()}

    @cached_property
    def explained(self) -> dict[str, float]:
        """Eta squared of every choice: the share of the spread between the means of its levels, the largest first.

        Over the specifications that have the choice: accuracy, for one, has no foil.
        """
        shares = {}
        for choice, levels in self.levels.items():
            groups = [
                np.array([o.estimate.mean for o in self.entries if o.specification.choices.get(choice) == level])
                for level in levels
            ]
            means = np.concatenate(groups)
            whole = ((means - means.mean()) ** 2).sum()
            between = sum(len(group) * (group.mean() - means.mean()) ** 2 for group in groups)
            shares[choice] = float(between / whole) if whole > 0 else 0.0
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def summary(self) -> str:
        """What the curve says, made from its numbers."""
        count = len(self.entries)
        own = [one for one in self.entries if one.specification.own]
        words = f"{self.agree} of {count} specifications agree, {self.contradict} contradict"
        if (by_relation := self.agree_by_relation) is not None:
            words += f"; by intervals that draw relations, then facts within them, {by_relation} agree"
        words += f"; {self.sure} agree with p < 0.05 familywise over the curve"
        words += f"; that the median specification lies above zero has p = {self.median_p:.3f}"
        if self.explained:
            choice, share = next(iter(self.explained.items()))
            words += f"; the choice that explains most of the spread is the {choice} ({share:.0%})"
        if len(own) == 1:
            one = own[0].estimate
            words += f"; the paper's own choice: {one.mean:.2f} [{one.low:.2f}, {one.high:.2f}], n = {one.n}"
        elif own:
            words += f"; of the paper's own {len(own)} choices {sum(one.agrees for one in own)} agree"
        return words + "".join(f"; {words} and are left out" for words in self.left_out)

    @property
    def left_out(self) -> list[str]:
        """Which specifications are not on the curve, in words."""
        few = [f"{self.few} more rest on fewer than {LEAST_FACTS} facts"] if self.few else []
        if self.same:
            few.append(f"{self.same} more corrupt the same tokens as another relation span in every fact")
        return few + (
            [f"{self.alike} more have the same difference in every fact ({self.alike_agree} above zero)"]
            if self.alike
            else []
        )

    @property
    def csv(self) -> bytes:
        """Every specification with its choices, estimate (in standard deviations), intervals, facts and p-value."""
        choices = list(self.levels)
        rows: list[list[object]] = [
            [
                place,
                *(one.specification.choices.get(choice, "") for choice in choices),
                "paper" if one.specification.own else "",
                *(Number(f"{x:.4f}") for x in (one.estimate.mean, one.estimate.low, one.estimate.high)),
                *_ends_by_relation(one.estimate),
                one.estimate.n,
                Number(f"{one.p:.4f}"),
            ]
            for place, one in enumerate(self.entries, 1)
        ]
        numbers = ("estimate", "low", "high", "low by relation", "high by relation", "facts", "p")
        return csv_bytes(("place", *choices, "own", *numbers), rows)


def _ends_by_relation(one: Estimate) -> list[object]:
    ends = [one.spread.low, one.spread.high] if one.spread is not None else []
    return [Number(f"{x:.4f}") for x in ends] if ends and math.isfinite(ends[0]) else ["", ""]


def curve_of(
    finding: str,
    specifications: Sequence[Specification],
    relations: Mapping[str, Sequence[int]] | None = None,
    same: int = 0,
) -> Curve | None:
    """The curve of a finding; None where no specification rests on enough facts. `relations` are the case ids of each
    relation; `same` counts specifications that were left out as copies.
    """
    enough = [one for one in specifications if len(one.differences.cases_N) >= LEAST_FACTS]
    kept = [one for one in enough if np.ptp(one.differences.values_N) > 0]
    if not kept:
        return None
    scaled = [_standardised(one.differences) for one in kept]
    found = [one for one in estimates(scaled, rates=False, relations=relations) if one is not None]
    p_S, median_p = flipped(scaled)
    entries = [Entry(*one) for one in zip(kept, found, p_S.tolist(), strict=True)]
    few, alike = len(specifications) - len(enough), [one for one in enough if np.ptp(one.differences.values_N) == 0]
    agree = sum(bool(one.differences.values_N[0] > 0) for one in alike)
    entries.sort(key=lambda one: one.estimate.mean)
    return Curve(finding, tuple(entries), median_p, few, len(alike), agree, same)


def least_sure(found: Sequence[Series | None]) -> Series | None:
    """Of several differences that a finding asks for, the one with the smallest mean over its standard error; None
    where one of them has no fact.
    """
    held = [one for one in found if one is not None and len(one.cases_N)]
    return min(held, key=_surety) if held and len(held) == len(found) else None


def _surety(one: Series) -> float:
    mean, n = float(one.values_N.mean()), len(one.cases_N)
    if n < 2:
        return -math.inf
    if np.ptp(one.values_N) == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (float(one.values_N.std(ddof=1)) / math.sqrt(n))


def _natural(level: str) -> tuple[int, str]:
    """Levels that open with a number in its order, before all others."""
    number = re.match(r"\d+", level)
    return (int(number[0]), level) if number else (10**9, level)


def _standardised(series: Series) -> Series:
    return Series(series.cases_N, series.values_N / series.values_N.std(ddof=1))


def flipped(samples: Sequence[Series], flips: int = FLIPS) -> tuple[np.ndarray, float]:
    """P-values of sign flips: two-sided (S,) of every sample, familywise by the largest statistic; and the median's,
    one-sided: that it lies as far above zero.

    A fact's sign is flipped in all samples at once, so that what the samples have in common stays. The statistic is
    that of a t-test, whose spread under flips is the root of the sum of squares.
    """
    cases_F = np.unique(np.concatenate([one.cases_N for one in samples]))
    values_SF = np.zeros((len(samples), len(cases_F)))
    for row, one in enumerate(samples):
        values_SF[row, np.searchsorted(cases_F, one.cases_N)] = one.values_N
    values_SF /= np.sqrt((values_SF**2).sum(1, keepdims=True))
    draw = np.random.default_rng(_SEED)
    signs_PF: Any = draw.choice([-1.0, 1.0], size=(flips, len(cases_F)))
    signs_PF[0] = 1  # the data themselves are one of the flips
    statistic_PS = signs_PF @ values_SF.T
    largest_P = np.abs(statistic_PS).max(1)
    ulp = 1e-12
    p_S = (largest_P[:, None] >= np.abs(statistic_PS[0]) - ulp).mean(0)
    median_P = np.median(statistic_PS, axis=1)
    return p_S, float((median_P >= median_P[0] - ulp).mean())
