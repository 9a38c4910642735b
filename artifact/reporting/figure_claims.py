"""Claims about the figures as predicates over stored traces: which cells' effects exceed which others', fact by fact.

Covers the effects of expected/ (Region, Effect): a mean over roles and layers a fact, the difference to its comparison,
and the 95% interval of that difference over facts. The paper prints no number for its figures, so a claim holds where
every difference's interval lies above zero. It draws nothing (figures.py, severed.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.facts.fact import Perspective
from artifact.reporting.expected import Claim, Effect, Region
from artifact.reporting.intervals import Estimate, estimate
from artifact.runs.store import RunInfo, Store
from artifact.tracing.averages import role_tokens

Traces = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class TracedEffects:
    """Finished traces by (trace kind, view), each by case id."""

    traces: Mapping[tuple[str, Perspective], Traces]

    @property
    def kinds(self) -> set[str]:
        """Kinds of which both views are there."""
        return {kind for kind, _ in self.traces if {(kind, "entity"), (kind, "relation")} <= self.traces.keys()}


def traced_effects(store: Store) -> TracedEffects:
    """The finished traces of a run."""
    found: dict[tuple[str, Perspective], Traces] = {}
    for unit in store.info().plan.units:
        if unit.does == "trace":
            done = {r.case_id: r.payload for r in store.records(unit) if r.status == "done"}
            if done:
                found[unit.trace_kind, unit.corrupt] = done
    return TracedEffects(found)


def difference(effect: Effect, traced: TracedEffects) -> Estimate | None:
    """Mean over facts of the region's effect minus its comparison's, in probability; None without a common fact."""
    above = _by_fact(effect.region, traced)
    if effect.over is not None:
        below = _by_fact(effect.over, traced)
    else:
        assert effect.share is not None
        share, traces = effect.share, traced.traces.get((effect.region.kind, effect.region.corrupt), {})
        below = {case: share * (trace["clean"] - trace["corrupted"]) for case, trace in traces.items()}
    common = sorted(above.keys() & below.keys())
    return estimate([above[case] - below[case] for case in common])


def figure_claim(claim: Claim, info: RunInfo, traced: TracedEffects) -> str:
    """Whether the claim holds for the run's model, with the difference that decides it and its interval."""
    found = [one for effect in claim.effects if (one := difference(effect, traced)) is not None]
    if len(found) < len(claim.effects):
        return f"undecided for {info.model}: no fact has all the roles it speaks of"
    worst = min(found, key=lambda one: one.low)
    if worst.low > 0:
        word = "holds"
    elif any(one.high <= 0 for one in found):
        word, worst = "does not hold", min(found, key=lambda one: one.high)
    else:
        word = "undecided"
    figures = f"smallest difference {worst.mean:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}], n = {worst.n}"
    return f"{word} for {info.model} ({figures})"


def _by_fact(region: Region, traced: TracedEffects) -> dict[int, float]:
    """Mean effect over the region's tokens and layers, for each fact that has such a token."""
    found = {}
    for case_id, trace in traced.traces.get((region.kind, region.corrupt), {}).items():
        effects_TL = np.asarray(trace["scores"], dtype=float) - trace["corrupted"]
        depth_L = (np.arange(effects_TL.shape[1]) + 0.5) / effects_TL.shape[1]
        inside_L = (depth_L >= region.depth[0]) & (depth_L < region.depth[1])
        by_role = role_tokens(region.corrupt, len(trace["tokens"]), trace["subject"], trace["span"])
        tokens = sorted({token for role in region.roles for token in by_role[role]})
        if tokens and inside_L.any():
            found[case_id] = float(effects_TL[tokens][:, inside_L].mean())
    return found
