"""A device that holds fewer items than the budget promises, at every place where a run may meet it.

The batch is halved there, the run goes on with the same numbers, and what alone does not fit is named and left undone.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import msgspec
import pytest
import torch

from artifact.plans.paper import SMOKE
from artifact.runs.context import Context
from artifact.runs.local import compute
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare

UNITS = {unit.name: unit for unit in SMOKE.units}
FEW = {"rome": "v_num_grad_steps", "memit": "v_num_grad_steps", "ft": "num_steps"}
FACTS = 3
PLACES = [
    ("unedited", "evaluation.score._aligned", 0, 1),
    ("rome-entity", "lm.decoder.Decoder.packed", 1, 30),  # keys; 22 rows are one fact's
    ("rome-relation", "editing.value._optimise", 2, 1),
    ("memit-entity", "lm.tokens.Tokens.pad", 1, 8),  # states
    ("memit-relation", "editing.value._optimise", 2, 1),
    ("mend-entity", "editing.mend_gradients._pass", 1, 1),
    ("mend-relation", "evaluation.score._aligned", 0, 1),  # once the edits are made and counted
    ("ft-entity", "editing.ft._tune", 1, 1),
    ("kn-entity", "editing.kn._store", 1, 1),
    ("kn-relation", "editing.kn._gradients", 3, 7),  # points of one fact's integral
    ("trace-hidden-entity", "lm.tokens.Tokens.pad", 1, 1),  # greedy answers
    ("trace-mlp-entity", "tracing.sweep._Token._sweep", 1, 2),  # layers of one fact
]


@pytest.fixture(scope="module")
def context() -> Context:
    """Everything on the embedded world, with few steps."""
    made = prepare(SMOKE, Asked("world", memory="2GB", device="cpu"), lambda line: None)[0]
    for method, steps in FEW.items():
        editor = made.editor(method)
        made._editors[method, ()] = replace(editor, hparams=msgspec.structs.replace(editor.hparams, **{steps: 3}))
    return made


def computed(unit: str, context: Context) -> list[Record]:
    context._orders.clear()
    items: Sequence[Any] = context.items(UNITS[unit])
    return compute(UNITS[unit], items[:FACTS], context)


def holding(where: str, argument: int, most: int, patched: pytest.MonkeyPatch) -> list[int]:
    """A function for whose argument the device has room up to so many items; gives the sizes that were tried."""
    module, _, name = where.rpartition(".")
    path, _, kind = module.rpartition(".")
    # A class's name begins with a capital letter.
    of_class = kind.lstrip("_")[0].isupper()
    owner = getattr(import_module(f"artifact.{path}"), kind) if of_class else import_module(f"artifact.{module}")
    really, tried = getattr(owner, name), []

    def limited(*given: Any, **named: Any) -> Any:
        tried.append(len(given[argument]))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("no room")
        return really(*given, **named)

    patched.setattr(owner, name, limited)
    return tried


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize(("unit", "where", "argument", "most"), PLACES, ids=[f"{u}: {w}" for u, w, *_ in PLACES])
def test_it_goes_on_in_halves(
    unit: str, where: str, argument: int, most: int, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = computed(unit, context)
    assert {record.status for record in whole} == {"done"}
    tried = holding(where, argument, most, monkeypatch)
    limit = context.memory.limit
    found = computed(unit, context)
    assert max(tried) > most >= min(tried)
    for one, other in zip(found, whole, strict=True):
        assert (one.case_id, one.status) == (other.case_id, other.status)
        assert close(json.loads(json.dumps(one.payload)), json.loads(json.dumps(other.payload)))
    context.memory.limit = limit


@pytest.mark.parametrize(("unit", "where", "argument", "most"), PLACES, ids=[f"{u}: {w}" for u, w, *_ in PLACES])
def test_what_does_not_fit_alone_is_named(
    unit: str, where: str, argument: int, most: int, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding(where, argument, 0, monkeypatch)
    found = computed(unit, context)
    cases = [item.case_id for item in list(context.items(UNITS[unit]))[:FACTS]]
    assert [(record.case_id, record.status) for record in found] == [(case, "undone") for case in cases]
    for record in found:
        assert "not fit the device's memory" in record.reason and "take a larger device" in record.reason
