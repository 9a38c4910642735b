"""Average indirect effects by token role and layer, from stored traces. No torch: figures need the store alone.

Covers the roles of both views and equation (4)'s mean over facts. A fact's value for a role is the mean over the role's
tokens; a fact without such a token does not count for it. Where the last corrupted token is the prompt's last token, it
counts in both roles.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from artifact.facts.fact import Perspective

Z95 = float(stats.norm.ppf(0.975))
ENTITY_ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
RELATION_ROLES = (
    "subject tokens",
    "first corrupted token",
    "middle corrupted tokens",
    "last corrupted token",
    "last token",
)


@dataclass(frozen=True)
class RoleEffects:
    """Indirect effects of one role: a row per fact that has the role, a column per layer."""

    role: str
    effects_FL: np.ndarray

    @property
    def facts(self) -> int:
        return len(self.effects_FL)

    def mean(self) -> np.ndarray:
        """AIE by layer (L,)."""
        return self.effects_FL.mean(0)

    def half_width(self) -> np.ndarray:
        """Half of the 95% interval of the mean by layer (L,), from the normal approximation; nan below two facts."""
        if self.facts < 2:
            return np.full(self.effects_FL.shape[1], np.nan)
        return Z95 * self.effects_FL.std(0, ddof=1) / np.sqrt(self.facts)


def roles(corrupt: Perspective) -> tuple[str, ...]:
    """Names of the roles, in the order figures show them."""
    return ENTITY_ROLES if corrupt == "entity" else RELATION_ROLES


def role_tokens(
    corrupt: Perspective, tokens: int, subject: Sequence[int], span: Sequence[int]
) -> Mapping[str, tuple[int, ...]]:
    """Positions of each role's tokens in a prompt of `tokens` tokens."""
    last = (tokens - 1,)
    if corrupt == "entity":
        after = tuple(range(subject[-1] + 1, tokens - 1))
        return dict(zip(ENTITY_ROLES, (*_first_middle_last(subject), after[:1], after[1:], last), strict=True))
    return dict(zip(RELATION_ROLES, (tuple(subject), *_first_middle_last(span), last), strict=True))


def _first_middle_last(positions: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(positions[:1]), tuple(positions[1:-1]), tuple(positions[-1:])


def role_effects(corrupt: Perspective, traces: Iterable[Mapping[str, Any]]) -> list[RoleEffects]:
    """Indirect effects by role over stored traces (the record's fields: tokens, subject, span, corrupted, scores)."""
    rows: dict[str, list[np.ndarray]] = {role: [] for role in roles(corrupt)}
    for trace in traces:
        effects_TL = np.asarray(trace["scores"], dtype=float) - trace["corrupted"]
        found = role_tokens(corrupt, len(trace["tokens"]), trace["subject"], trace["span"])
        for role, positions in found.items():
            if positions:
                rows[role].append(effects_TL[list(positions)].mean(0))
    return [RoleEffects(role, np.array(rows[role])) for role in rows if rows[role]]
