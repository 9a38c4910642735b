"""The figures' claims are judged by their effects' intervals: they hold, fail, stay undecided, or lack traces."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from artifact.facts.fact import PERSPECTIVES, Perspective
from artifact.reporting.expected import Claim, load_expected
from artifact.reporting.figure_claims import TracedEffects, deciding, difference, figure_claim
from artifact.reporting.intervals import Estimate
from artifact.reporting.verdict import MeasuredRun, judge_claim
from artifact.runs.store import Store
from artifact.tracing.averages import Traces, trace_numbers, traces_of

LAYERS, TOKENS = 12, 7
SUBJECT, RELATION = [1, 2], [0, 3, 4, 5, 6]
CLAIMS = {claim.id: claim for claim in load_expected().claims if claim.effects}
Shape = Callable[[str, str, int, float], float]
"""Effect of (kind, perspective) at a token and a depth."""


def as_claimed(kind: str, perspective: str, token: int, depth: float) -> float:
    """A model in which all four claims hold."""
    last, early = token == TOKENS - 1, depth < 1 / 3
    if kind.startswith("severed"):
        return 0.1
    if perspective == "entity":
        return 0.4 if kind == "mlp" and token == 2 and depth < 0.5 else 0.0
    if kind == "mlp":
        return (0.5 if depth > 0.5 else 0.1) if last else 0.0
    if kind == "attn":
        return (0.4 if 1 / 3 < depth < 2 / 3 else 0.1 if depth > 2 / 3 else 0.0) if last else 0.0
    return 0.5 if last else 0.3 if early and token in RELATION else 0.0


def traced(
    shape: Shape,
    kinds: tuple[str, ...] = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn"),
    relation: list[int] = RELATION,
    noise: float = 0.02,
    facts: int = 20,
) -> TracedEffects:
    draw = np.random.default_rng(0)
    found: dict[tuple[str, Perspective], Traces] = {}
    for kind in kinds:
        for perspective in PERSPECTIVES:
            span = SUBJECT if perspective == "entity" else relation
            traces = [
                {
                    "tokens": ["t"] * TOKENS,
                    "subject": SUBJECT,
                    "span": span,
                    "clean": 0.9,
                    "corrupted": 0.1,
                    "scores": [
                        [
                            0.1 + shape(kind, perspective, token, (layer + 0.5) / LAYERS) + draw.normal(0, noise)
                            for layer in range(LAYERS)
                        ]
                        for token in range(TOKENS)
                    ],
                }
                for _ in range(facts)
            ]
            numbers = np.array([trace_numbers(perspective, trace) for trace in traces])
            found[kind, perspective] = traces_of(perspective, np.arange(facts), numbers)
    return TracedEffects(found)


def status(claim: Claim, smoke: Store, effects: TracedEffects, model: str = "gpt2-xl", evidence: bool = True) -> str:
    info = msgspec.structs.replace(smoke.info(), model=model, evidence=evidence)
    return judge_claim(claim, {}, {model: MeasuredRun(smoke, info, (), effects)}).status


@pytest.mark.parametrize("name", CLAIMS)
def test_it_holds_where_the_effects_are_as_claimed(name: str, smoke: Store) -> None:
    found = status(CLAIMS[name], smoke, traced(as_claimed))
    assert found.startswith("holds for gpt2-xl (smallest difference +")
    assert found.endswith("n = 20); not run: needs gpt-j")


@pytest.mark.parametrize("name", CLAIMS)
def test_it_fails_where_layers_are_the_other_way_round(name: str, smoke: Store) -> None:
    def reversed_(kind: str, perspective: str, token: int, depth: float) -> float:
        if name == "F3":  # the middle third is its own mirror image: flatten it below the others
            return 0.0 if 1 / 3 < depth < 2 / 3 else 0.3
        return as_claimed(kind, perspective, token, 1 - depth)

    found = status(CLAIMS[name], smoke, traced(reversed_))
    assert found.startswith("does not hold for gpt2-xl (smallest difference -")


@pytest.mark.parametrize("facts", [1, 4])
def test_a_few_facts_decide_nothing(facts: int, smoke: Store) -> None:
    """One fact has an interval of no width, and lies above zero or below."""
    found = status(CLAIMS["F1"], smoke, traced(as_claimed, facts=facts))
    assert found == "undecided for gpt2-xl: fewer than 5 facts; not run: needs gpt-j"


@pytest.mark.parametrize("name", ["F2", "F3", "F4"])
def test_noise_alone_is_undecided_or_fails_but_never_holds(name: str, smoke: Store) -> None:
    found = status(CLAIMS[name], smoke, traced(lambda *_: 0.2))
    assert not found.startswith("holds")


def test_what_is_missing_is_named(smoke: Store) -> None:
    claim = CLAIMS["F4"]
    some = traced(as_claimed, ("hidden", "mlp"))
    lacking = "gpt2-xl with traces of attn, severed-mlp, severed-attn"
    assert status(claim, smoke, some) == f"not run: needs gpt-j, {lacking}"
    every = "mlp, attn, hidden, severed-mlp, severed-attn"
    for model, evidence in (("world", False), ("gpt2-xl", False), ("world", True)):
        found = status(claim, smoke, traced(as_claimed), model, evidence)
        assert found == f"not run: needs gpt2-xl, gpt-j with traces of {every}"


def test_a_share_is_of_each_facts_own_total_effect() -> None:
    (effect,) = CLAIMS["F1"].effects
    found = difference(effect, traced(as_claimed))
    assert found is not None and found.n == 20
    assert found.mean == pytest.approx(0.5 - 0.5 * 0.8, abs=0.01)


def test_facts_without_the_role_do_not_count() -> None:
    effects = traced(as_claimed, relation=[6])
    assert difference(CLAIMS["F2"].effects[1], effects) is not None  # its first corrupted token is the last
    missing = msgspec.structs.replace(CLAIMS["F2"].effects[0].region, roles=("middle corrupted tokens",))
    assert difference(msgspec.structs.replace(CLAIMS["F2"].effects[0], region=missing), effects) is None


def test_a_small_difference_is_written_with_the_digits_that_it_has(smoke: Store) -> None:
    """Three decimals would show an interval of +0.000 to +0.000."""
    found = status(CLAIMS["F3"], smoke, traced(lambda *where: as_claimed(*where) / 10_000, noise=1e-6))
    mean, low, high = map(float, re.findall(r"[+-][0-9.]+", found)[:3])
    assert 0 < low < mean < high < 0.0005


@pytest.mark.parametrize(
    ("ends", "decides"),
    [
        (((-0.05, 0.01), (-0.02, -0.01)), 1),  # one fails it, though the other's interval reaches lower
        (((-0.05, -0.03), (-0.02, -0.01)), 0),
        (((0.01, 0.2), (0.02, 0.1)), 0),
        (((-0.01, 0.2), (0.02, 0.1)), 0),
    ],
)
def test_what_decides_a_claim_is_what_its_sentence_shows(
    ends: Any, decides: int, smoke: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Estimate(sum(one) / 2, *one, 40) for one in ends]
    claim = CLAIMS["F2"]
    given = dict(zip(map(id, claim.effects), found, strict=True))
    monkeypatch.setattr("artifact.reporting.figure_claims.difference", lambda effect, _: given[id(effect)])
    assert deciding(claim, TracedEffects({})) == found[decides]
    assert f"{found[decides].mean:+.3f}"[:6] in figure_claim(claim, TracedEffects({})).figures
    few = Estimate(0.5, 0.4, 0.6, 3)
    given[id(claim.effects[0])] = few
    assert deciding(claim, TracedEffects({})) == few
    undecided = figure_claim(claim, TracedEffects({}))
    assert undecided.word == "undecided" and undecided.why == "fewer than 5 facts"
    assert undecided.sentence("a (v2)") == "undecided for a (v2): fewer than 5 facts"
