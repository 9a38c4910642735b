"""Claims about the figures as predicates over stored traces: which cells' effects exceed which others', fact by fact.

Covers the effects of expected/ (Region, Effect): a mean over roles and layers a fact, the difference to its comparison,
and the 95% interval of that difference over facts. The paper prints no number for its figures, so a claim holds where
every difference's interval lies above zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from artifact.facts.fact import Perspective
from artifact.reporting.cells import PROBABILITY
from artifact.reporting.charts import finished_traces
from artifact.reporting.equivalence import Tested, doubt, family, held_against
from artifact.reporting.expected import Claim, Effect, Region
from artifact.reporting.intervals import Estimate, Series, estimates
from artifact.runs.store import Store
from artifact.tracing.averages import Traces, roles


@dataclass(frozen=True)
class TracedEffects:
    """Finished traces by (trace kind, perspective), and the case ids of each relation."""

    traces: Mapping[tuple[str, Perspective], Traces]
    relations: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        """Kinds of which both perspectives are there."""
        return {kind for kind, _ in self.traces if {(kind, "entity"), (kind, "relation")} <= self.traces.keys()}


def traced_effects(store: Store) -> TracedEffects:
    """The finished traces of a run."""
    return TracedEffects(finished_traces(store), store.info().traced_relations)


def difference(effect: Effect, traced: TracedEffects) -> Estimate | None:
    """Mean over facts of the region's effect minus its comparison's, in probability; None without a common fact."""
    found = differences(effect, traced)
    return None if found is None else estimates([found], rates=False, relations=traced.relations)[0]


def differences(effect: Effect, traced: TracedEffects) -> Series | None:
    """The region's effect minus its comparison's, fact by fact; None where one of them has no fact."""
    above = _by_fact(effect.region, traced)
    if effect.over is not None:
        below = _by_fact(effect.over, traced)
    else:
        assert effect.share is not None
        traces = traced.traces.get((effect.region.kind, effect.region.perspective))
        below = Series(traces.cases_F, effect.share * (traces.clean_F - traces.corrupted_F)) if traces else None
    return None if above is None or below is None else above.minus(below)


def effect_tests(claims: Sequence[Claim], traced: TracedEffects) -> list[Tested]:
    """Each difference of the claims held against zero, corrected over all of them; those without traces are left out.

    `of` is the claim's id, `name` the condition in words.
    """
    return family(
        [
            held_against(claim.id, words, difference(effect, traced), PROBABILITY.of_change)
            for claim in claims
            if claim.kinds and set(claim.kinds) <= traced.kinds
            for effect, words in zip(claim.effects, claim.predicate, strict=True)
        ]
    )


class FigureClaim(NamedTuple):
    """Whether a claim holds, does not hold or is undecided, with the difference that decides it and its interval in
    words (`figures`), or why none decides (`why`).
    """

    word: str
    figures: str = ""
    why: str = ""

    def sentence(self, model: str) -> str:
        """The same of a model."""
        return f"{self.word} for {model}" + (f": {self.why}" if self.why else f" ({self.figures})")


def figure_claim(claim: Claim, traced: TracedEffects) -> FigureClaim:
    """What the traces say of a claim of the figures."""
    decides = deciding(claim, traced)
    if decides is None:
        return FigureClaim("undecided", why="no fact has all the roles it speaks of")
    if why := doubt(decides):
        return FigureClaim("undecided", why=why)
    word = "holds" if decides.low > 0 else "does not hold" if decides.high <= 0 else "undecided"
    mean, low, high = (f"{one:+.{_decimals(decides)}f}" for one in (decides.mean, decides.low, decides.high))
    return FigureClaim(word, f"smallest difference {mean} [{low}, {high}], n = {decides.n}")


def deciding(claim: Claim, traced: TracedEffects) -> Estimate | None:
    """The claim's difference that decides it: one that decides nothing (equivalence.doubt), else one that fails it, the
    furthest below zero, else the one whose interval reaches lowest. None where no fact has all its roles.
    """
    differences = [difference(effect, traced) for effect in claim.effects]
    known = [one for one in differences if one is not None]
    if not known or len(known) < len(differences):
        return None
    if doubtful := [one for one in known if doubt(one)]:
        return doubtful[0]
    if failing := [one for one in known if one.high <= 0]:
        return min(failing, key=lambda one: one.high)
    return min(known, key=lambda one: one.low)


def _decimals(one: Estimate) -> int:
    """Decimals that give the interval's width two digits, at least three."""
    width = one.high - one.low
    return 3 if width <= 0 else min(9, max(3, 1 - math.floor(math.log10(width))))


def _by_fact(region: Region, traced: TracedEffects) -> Series | None:
    """Mean effect over the region's tokens and layers, for each fact that has such a token; None without any.

    Roles count by their tokens: a token that has two of the region's roles counts twice.
    """
    traces = traced.traces.get((region.kind, region.perspective))
    if traces is None:
        return None
    depth_L = (np.arange(traces.effects_FRL.shape[2]) + 0.5) / traces.effects_FRL.shape[2]
    inside_L = (depth_L >= region.depth[0]) & (depth_L < region.depth[1])
    chosen = [roles(region.perspective).index(role) for role in region.roles]
    tokens_FR = traces.tokens_FR[:, chosen]
    has_F = tokens_FR.sum(1) > 0
    if not has_F.any() or not inside_L.any():
        return None
    # Roles without a token are nan; they weigh nothing.
    effects_FR = np.nan_to_num(traces.effects_FRL[:, chosen][..., inside_L].mean(-1))
    mean_F = (effects_FR * tokens_FR)[has_F].sum(1) / tokens_FR[has_F].sum(1)
    return Series(traces.cases_F[has_F], mean_F)
