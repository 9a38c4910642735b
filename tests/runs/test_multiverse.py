"""The multiverse's records: each way is the trace that is asked for alone, and what is missing is counted."""

from dataclasses import replace

import numpy as np
import pytest

from artifact.errors import DoesNotFit
from artifact.plans.multiverse import BEYOND, MULTIVERSE, ROLES
from artifact.reporting.expected import load_expected
from artifact.runs.resolve import Asked, prepare
from artifact.runs.tasks import multiverse as module
from artifact.tracing.averages import roles, trace_numbers
from artifact.tracing.choices import METRICS, Choice, choices, windows_of
from artifact.tracing.kinds import TRACE_KINDS
from artifact.tracing.replacement import MOST_DONORS, find_donors
from artifact.tracing.trace import TraceSettings, trace

WAYS = [
    Choice("mlp", "noise, 5 sigma", "all", 1, "corrupt"),
    Choice("hidden", "replacement", "all", 0, "restore"),
    Choice("severed-attn", "noise, 1 sigma", "after", 0, "restore"),
    Choice("hidden", "mean", "template", 0, "restore"),
]


@pytest.fixture(scope="module")
def context():
    found, _ = prepare(MULTIVERSE, Asked("world", limit=2), lambda line: None)
    return found


def test_a_way_in_a_record_is_its_own_trace(context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choices", lambda *_: WAYS)
    unit, facts = BEYOND[0], context.inputs.edited.facts[:3]
    records = module.compute(unit, facts, context)
    assert {record.status for record in records} == {"done"}
    model, level = context.model, context.noise_level
    statements = [fact.statement for fact in context.inputs.edited.facts]
    donors = find_donors(model.tokens, statements, "relation")
    for record, statement, own in zip(records, statements, donors, strict=False):
        alone = trace(
            model, statement, TraceSettings(level * 5 / 3, "mlp", 1, perspective="relation", direction="corrupt")
        )
        for row, metric in zip(record.payload["traces"][WAYS[0].key], METRICS, strict=True):
            one = alone.metrics[metric]
            told = {**vars(alone), "clean": one.clean, "corrupted": one.corrupted}
            told["scores"] = one.clean + one.corrupted - np.array(one.scores)
            expected = trace_numbers("relation", told)
            found = np.array(row, dtype=float)
            names, layers = roles("relation"), model.decoder.layers
            first = 3 + len(names)
            starts = [first + names.index(role) * layers for role in ROLES["mlp", "relation"]]
            assert all(np.isfinite(found[start : start + layers]).all() for start in starts)
            assert np.isnan(found[first : first + layers]).all(), "the subject's tokens are no claim's"
            expected[np.isnan(found)] = np.nan
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert (WAYS[1].key in record.payload["traces"]) == (not isinstance(own, str))
        if isinstance(own, str):
            assert record.payload["without"][own] == 1


@pytest.mark.parametrize("whole", [True, False])
def test_donors_are_sought_in_all_the_data(whole: bool, context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the first facts that the model answers has hardly two of one subject or relation."""
    monkeypatch.setattr(module, "choices", lambda *_: WAYS[1:2])
    edited = context.inputs.edited
    statements = [fact.statement for fact in edited.facts]
    donors = find_donors(context.model.tokens, statements, "relation")
    at = next(at for at, one in enumerate(donors) if not isinstance(one, str))
    alone = replace(edited, facts=edited.facts[at : at + 1])
    inputs = replace(context.inputs, edited=alone, whole=edited if whole else None)
    (record,) = module.compute(BEYOND[0], alone.facts, replace(context, inputs=inputs, kept={}))
    assert record.status == "done" and (WAYS[1].key in record.payload["traces"]) == whole
    assert bool(record.payload["without"]) != whole


def test_donors_outside_the_span_leave_room_for_others(context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all donors the first five that differ in the corrupted tokens alone."""
    monkeypatch.setattr(module, "choices", lambda *_: WAYS[1:2])
    edited = context.inputs.edited
    statements = [fact.statement for fact in edited.facts]
    found = find_donors(context.model.tokens, statements, "relation", most=None)
    at = next(at for at, one in enumerate(found) if not isinstance(one, str))

    def unfit_first(tokens, told, perspective, most=MOST_DONORS) -> list:
        several = ("It is",) * MOST_DONORS
        return [several + found[at]] * len(told) if most is None else [several[:most]] * len(told)

    monkeypatch.setattr(module, "find_donors", unfit_first)
    (record,) = module.compute(BEYOND[0], edited.facts[at : at + 1], replace(context, kept={}))
    assert WAYS[1].key in record.payload["traces"] and not record.payload["without"]


def test_a_fact_that_does_not_fit_is_left_for_a_larger_device(context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choices", lambda *_: WAYS[:1])
    monkeypatch.setattr(
        module, "trace_all", lambda model, statements, *_, **__: [DoesNotFit("too large")] * len(statements)
    )
    (record,) = module.compute(BEYOND[0], context.inputs.edited.facts[:1], context)
    assert (record.status, record.reason) == ("undone", "too large")


def test_restored_are_the_tokens_that_the_claims_compare() -> None:
    regions = [
        one for claim in load_expected().claims for effect in claim.effects for one in (effect.region, effect.over)
    ]
    compared: dict[tuple[str, str], set[str]] = {}
    for region in filter(None, regions):
        compared.setdefault((region.kind, region.perspective), set()).update(region.roles)
    assert {key: set(of) for key, of in ROLES.items()} == compared
    assert {(unit.trace_kind.name, unit.perspective) for unit in BEYOND if unit.does == "task"} == set(ROLES)


def test_the_grid_has_every_combination() -> None:
    """Windows that are the same on a shallow model are one."""
    assert windows_of(48, 10) == [1, 3, 5, 10] and windows_of(6, 1) == [1] and windows_of(28, 10) == [1, 2, 3, 6, 10]
    for kind, windows in (("hidden", 1), ("mlp", 4), ("attn", 4), ("severed-mlp", 1)):
        entity, relation = (
            [*choices(TRACE_KINDS[kind], perspective, 48, 10)] for perspective in ("entity", "relation")
        )
        assert len(entity) == windows * 5 * 2 and len(relation) == 3 * len(entity)
        assert len({one.key for one in relation}) == len(relation)
