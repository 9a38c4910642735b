"""Average indirect effects by token role and layer, from stored traces. No torch: figures need the store alone.

Covers the roles of both perspectives and equation (4)'s mean over facts. A fact's value for a role is the mean over the
role's tokens; a fact without such a token does not count for it. Where the last corrupted token is the prompt's last
token, it counts in both roles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from artifact.facts.fact import Perspective

Z95 = NormalDist().inv_cdf(0.975)
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


def peak(effects: Sequence[RoleEffects], shared_last: bool) -> tuple[int, int]:
    """Row (of `effects`) and layer of the largest AIE away from the prompt's last token, which the last corrupted token
    is, too, where that is shared.

    At the last token the last layers recover the clean answer by construction, which says nothing about a site.
    """
    late = {"last token"} | ({"last corrupted token"} if shared_last else set())
    away = np.array([effect.role not in late for effect in effects])
    aie_RL = np.array([effect.mean() for effect in effects])
    role, layer = np.unravel_index(int(np.where(away[:, None] | ~away.any(), aie_RL, -np.inf).argmax()), aie_RL.shape)
    return int(role), int(layer)


def roles(perspective: Perspective) -> tuple[str, ...]:
    """Names of the roles, in the order figures show them."""
    return ENTITY_ROLES if perspective == "entity" else RELATION_ROLES


def role_tokens(
    perspective: Perspective, tokens: int, subject: Sequence[int], span: Sequence[int], mask: int | None = None
) -> Mapping[str, tuple[int, ...]]:
    """Positions of each role's tokens in a prompt of `tokens` tokens. In an encoder the last token is its `mask`."""
    last = (tokens - 1 if mask is None else mask,)
    if perspective == "entity":
        after = tuple(range(subject[-1] + 1, last[0]))
        return dict(zip(ENTITY_ROLES, (*_first_middle_last(subject), after[:1], after[1:], last), strict=True))
    return dict(zip(RELATION_ROLES, (tuple(subject), *_first_middle_last(span), last), strict=True))


def _first_middle_last(positions: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(positions[:1]), tuple(positions[1:-1]), tuple(positions[-1:])


def trace_numbers(perspective: Perspective, trace: Mapping[str, Any]) -> np.ndarray:
    """What averages need of one stored trace (tokens, subject, span, clean, corrupted, scores), as one row of numbers.

    In the order that `traces_of` reads: clean, corrupted, whether the last corrupted token is the prompt's last, tokens
    of each role, and each role's mean indirect effect by layer (nan where the fact has no such token).
    """
    effects_TL = np.asarray(trace["scores"], dtype=float) - trace["corrupted"]
    tokens, span = len(trace["tokens"]), trace["span"]
    by_role = role_tokens(perspective, tokens, trace["subject"], span, trace.get("mask"))
    effects_RL = np.full((len(by_role), effects_TL.shape[1]), np.nan)
    for role, positions in enumerate(by_role.values()):
        if positions:
            effects_RL[role] = effects_TL[list(positions)].mean(0)
    shared = bool(span) and (span[-1],) == by_role["last token"]
    counts_R = [len(positions) for positions in by_role.values()]
    return np.concatenate(([trace["clean"], trace["corrupted"], shared, *counts_R], effects_RL.ravel()))


@dataclass(frozen=True)
class Traces:
    """Finished traces of one kind and perspective: probabilities and each role's mean effects, a row a fact (F).

    R roles, L layers; `tokens_FR` counts each role's tokens, `shared_last_F` marks facts whose last corrupted token is
    the prompt's last.
    """

    perspective: Perspective
    cases_F: np.ndarray
    clean_F: np.ndarray
    corrupted_F: np.ndarray
    shared_last_F: np.ndarray
    tokens_FR: np.ndarray
    effects_FRL: np.ndarray

    def role_effects(self) -> list[RoleEffects]:
        """Effects by role, for the roles that any fact has."""
        has_FR = self.tokens_FR > 0
        return [
            RoleEffects(role, self.effects_FRL[has_FR[:, r], r])
            for r, role in enumerate(roles(self.perspective))
            if has_FR[:, r].any()
        ]


def traces_of(perspective: Perspective, cases_F: np.ndarray, numbers_FX: np.ndarray) -> Traces:
    """The traces whose `trace_numbers` are the rows of numbers_FX."""
    names = len(roles(perspective))
    clean_F, corrupted_F, shared_F = numbers_FX[:, :3].T
    tokens_FR, effects_FX = numbers_FX[:, 3 : 3 + names], numbers_FX[:, 3 + names :]
    effects_FRL = effects_FX.reshape(len(numbers_FX), names, -1)
    return Traces(perspective, cases_F, clean_F, corrupted_F, shared_F > 0, tokens_FR, effects_FRL)
