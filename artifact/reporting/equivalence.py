"""Tests of a measured mean: is it equivalent to a value, different from it, or is that undecided?

Covers Student's t, two one-sided tests against a margin (TOST: Schuirmann 1987), the test that a difference is larger
than the margin, Holm's correction over the cells of a table (Holm 1979), and the smallest difference that so many facts
detect. All are shown beside the statuses of the report and change none of them.

The standard error is the larger of that over facts and that over relations (intervals.py). Shares are tested with the
error that they would have at the tested value, as Wilson's interval is made, so that a share of 100% is not taken for
certain.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from artifact.reporting.cells import Scale
from artifact.reporting.intervals import Estimate, Spread

Outcome = Literal["equivalent", "different", "undecided"]
ALPHA, POWER = 0.05, 0.8
MARGIN = 0.05
"""Points of success or probability within which a change or an interaction counts as none."""
LEAST_FACTS = 5
"""Facts below which nothing is decided: an interval of fewer would mean nothing."""
LEAST_ALIKE = 30
"""Facts that must be alike before a spread of zero is believed: if one fact in ten differed, 30 drawn facts would still
be all alike once in 24 times.
"""
_NORMAL = math.inf
_DIGITS = 6


@dataclass(frozen=True)
class Tested:
    """A mean held against `target`, both in one unit. `margin` (None: there is none, and nothing is equivalent) is how
    far from it still counts as the same.

    `different` is the p-value of a difference larger than the margin, `equivalent` that of one smaller; None where
    nothing can be tested, with the reason in `why`. The `holm` ones are corrected over a family; they decide. `of` and
    `name` say which number it is.
    """

    of: str
    name: str
    estimate: Estimate
    scale: Scale
    target: float = 0.0
    margin: float | None = None
    different: float | None = None
    equivalent: float | None = None
    holm_different: float | None = None
    holm_equivalent: float | None = None
    detectable: float | None = None
    why: str = ""

    @property
    def outcome(self) -> Outcome:
        """Different, equivalent, or neither can be said."""
        if self.holm_different is not None and self.holm_different <= ALPHA:
            return "different"
        if self.holm_equivalent is not None and self.holm_equivalent <= ALPHA:
            return "equivalent"
        return "undecided"

    @property
    def words(self) -> str:
        """The outcome, with the reason where nothing could be tested."""
        return f"{self.outcome}: {self.why}" if self.why else self.outcome

    @property
    def difference(self) -> Estimate:
        """The difference from the target, with its plain interval."""
        one = self.estimate
        return Estimate(one.mean - self.target, one.low - self.target, one.high - self.target, one.n)

    @property
    def by_relation(self) -> tuple[float, float, int] | None:
        """The ends of the difference's interval by relation, and the relations; None where fewer than two are known."""
        spread = self.estimate.spread
        if spread is None or math.isnan(spread.low):
            return None
        return spread.low - self.target, spread.high - self.target, spread.relations

    @property
    def p_values(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Of a larger difference and corrected, of a smaller one and corrected."""
        return self.different, self.holm_different, self.equivalent, self.holm_equivalent

    @property
    def json(self) -> dict[str, Any]:
        """What verdict.json holds of it, in the number's unit; intervals are those of the difference."""
        difference, ends = self.difference, self.by_relation
        return {
            "outcome": self.outcome,
            "reason": self.why,
            "target": _rounded(self.target),
            "margin": _rounded(self.margin),
            **{name: _rounded(getattr(difference, name)) for name in ("mean", "low", "high")},
            "n": difference.n,
            "by_relation": ends and {"low": _rounded(ends[0]), "high": _rounded(ends[1]), "relations": ends[2]},
            "p_different": _rounded(self.different),
            "p_different_holm": _rounded(self.holm_different),
            "p_equivalent": _rounded(self.equivalent),
            "p_equivalent_holm": _rounded(self.holm_equivalent),
            "detectable": _rounded(self.detectable),
        }


def doubt(estimate: Estimate) -> str:
    """Why an interval decides nothing, in words: too few facts, or few facts that are all alike; empty where it may."""
    if estimate.n < LEAST_FACTS:
        return f"fewer than {LEAST_FACTS} facts"
    if estimate.low == estimate.high and estimate.n < LEAST_ALIKE:
        return f"fewer than {LEAST_ALIKE} facts, all alike"
    return ""


def family(tests: Iterable[Tested | None]) -> list[Tested]:
    """The tests that there are, with their p-values corrected by Holm, each kind over all of them."""
    held = [one for one in tests if one is not None]
    different, equivalent = (holm([getattr(one, name) for one in held]) for name in ("different", "equivalent"))
    return [
        replace(one, holm_different=p, holm_equivalent=q) for one, p, q in zip(held, different, equivalent, strict=True)
    ]


def held_against(
    of: str,
    name: str,
    estimate: Estimate | None,
    scale: Scale,
    target: float = 0.0,
    margin: float | None = None,
) -> Tested | None:
    """An estimate held against `target` with `margin` either side, in its unit; not corrected yet. None where it is no
    mean over facts.
    """
    if estimate is None or estimate.spread is None:
        return None
    found, spread = Tested(of, name, estimate, scale, target, margin), estimate.spread
    if why := doubt(estimate):
        return replace(found, why=why, detectable=_detectable(estimate, spread, margin or 0.0))
    above, below = (_beyond(estimate, spread, target + side * (margin or 0.0)) for side in (1, -1))
    different = min(1.0, 2 * min(above[0], below[1]))
    equivalent = None if margin is None else max(above[1], below[0])
    detectable = _detectable(estimate, spread, margin or 0.0)
    return replace(found, different=different, equivalent=equivalent, detectable=detectable)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None stays None and does not count."""
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - step)))
        corrected[at] = largest
    return corrected


def t_above(t: float, freedom: float) -> float:
    """The probability that Student's t with so many degrees of freedom is above `t`; infinitely many are the normal."""
    if freedom == _NORMAL:
        return math.erfc(t / math.sqrt(2)) / 2
    if t * t < freedom:  # near zero the tail is nearly a half, and only what is missing from it can be told
        half = (1 - _beta_below(t * t / (freedom + t * t), 0.5, freedom / 2)) / 2
    else:
        half = _beta_below(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return half if t > 0 else 1 - half


@cache
def t_quantile(level: float, freedom: int) -> float:
    """The value below which Student's t lies with probability `level`, from 0.5 to 1, by bisection."""
    low, high = 0.0, 1.0
    while t_above(high, freedom) > 1 - level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_above(middle, freedom) > 1 - level else (low, middle)
    return high


def _beyond(estimate: Estimate, spread: Spread, value: float) -> tuple[float, float]:
    """One-sided p-values of the mean lying above `value`, and below it."""
    distance, error = estimate.mean - value, spread.error
    if spread.whole is not None:
        share = value / spread.whole
        variance = share * (1 - share) if 0 < share < 1 else 0.0
        error = spread.whole * math.sqrt(variance * spread.inflated / estimate.n)
    if error == 0:
        return float(distance <= 0), float(distance >= 0)
    # The error of a share at a given value is known, not estimated: it is normal, not Student's.
    known = spread.whole is not None and spread.inflated == 1
    freedom = _NORMAL if known else spread.freedom
    return t_above(distance / error, freedom), t_above(-distance / error, freedom)


def _detectable(estimate: Estimate, spread: Spread, margin: float) -> float | None:
    """The smallest true difference that is found to be larger than the margin with probability POWER at this n, by a
    two-sided test at ALPHA, before Holm's correction.
    """
    error = spread.error
    if spread.whole is not None:
        # Agresti and Coull (1998): two successes and two failures more, so that a share of 100% has an error, too.
        share = (estimate.mean / spread.whole * estimate.n + 2) / (estimate.n + 4)
        error = spread.whole * math.sqrt(share * (1 - share) / (estimate.n + 4) * spread.inflated)
    if error == 0 or estimate.n < 2:
        return None
    return margin + (t_quantile(1 - ALPHA / 2, spread.freedom) + t_quantile(POWER, spread.freedom)) * error


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_below(1 - x, b, a)
    fraction = 1.0
    for m in range(20 + 4 * math.isqrt(int(max(a, b))), 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = (a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1 - odd / (1 + even / fraction)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * fraction)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
