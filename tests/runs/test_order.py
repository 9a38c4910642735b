"""Edits that depend on those before them: the same numbers in sequence, in any batches, shards and order, resumed."""

from collections.abc import Sequence

import msgspec
import pytest

from artifact.editing.mend import mend
from artifact.editing.mend_history import History
from artifact.facts.fact import Fact
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Unit
from artifact.runs.context import Context
from artifact.runs.describe import RunInfo
from artifact.runs.local import compute
from artifact.runs.order import Order
from artifact.runs.record import Record
from artifact.runs.resolve import Asked, prepare

UNIT = msgspec.structs.replace(next(unit for unit in SMOKE.units if unit.name == "mend-entity"), batch=2)
PLAN = msgspec.structs.replace(SMOKE, units=(UNIT,))
LIMIT = 7


def begun(limit: int = LIMIT, shard: tuple[int, int] | None = None, **options) -> tuple[Context, RunInfo]:
    return prepare(PLAN, Asked("world", limit=limit, shard=shard, **options), lambda line: None)


def facts_of(context: Context, cases: Sequence[int]) -> list[Fact]:
    items = {fact.case_id: fact for fact in context.inputs.edited.facts}
    return [items[case] for case in cases]


def computed(context: Context, batches: Sequence[Sequence[int]], unit: Unit = UNIT) -> dict[int, Record]:
    found = [record for batch in batches for record in compute(unit, facts_of(context, batch), context)]
    return {record.case_id: record for record in found}


@pytest.fixture(scope="module")
def sequence() -> dict[int, Record]:
    context, info = begun()
    found = computed(context, info.batches(UNIT))
    assert [record.payload["after"] for record in found.values()] == list(range(LIMIT))
    assert all(record.status == "done" for record in found.values())
    return found


def test_it_is_one_sequence_of_edits(sequence) -> None:
    """The first edit and the last have the norms that `mend` gives for the whole list at once."""
    context, info = begun()
    editor = context.editor("mend")
    facts = facts_of(context, list(sequence))
    edits = mend(
        editor.model, [[f.view("entity")] for f in facts], editor.hparams, editor.network, editor.protocol, History()
    )
    for edited, record in zip(edits, sequence.values(), strict=True):
        assert record.payload["norm"] == pytest.approx(edited.norm, rel=1e-5)


@pytest.mark.parametrize("shard", [(1, 2), (2, 2), (3, 4)])
def test_a_shard_has_the_numbers_of_the_whole(sequence, shard) -> None:
    """Bit for bit: what a shard leaves out is counted in the same batches."""
    context, info = begun(shard=shard)
    assert computed(context, info.batches(UNIT)).items() <= sequence.items()


def test_batches_in_any_order_have_the_numbers_of_the_sequence(sequence) -> None:
    """As Ray's workers get them, and as a run that is resumed in its middle begins."""
    context, info = begun()
    assert computed(context, info.batches(UNIT)[::-1]) == sequence
    context, info = begun()
    assert computed(context, info.batches(UNIT)[2:]).items() <= sequence.items()


def test_a_limit_only_cuts_the_end_off(sequence) -> None:
    context, info = begun(limit=4)
    assert computed(context, info.batches(UNIT)).items() <= sequence.items()


def test_a_case_computed_once_more_alone_sees_the_same_history(sequence) -> None:
    """As the runner does after a failure: neither doubled nor forgotten."""
    context, info = begun()
    last = info.batches(UNIT)[1][1]
    for _ in range(2):
        (record,) = compute(UNIT, facts_of(context, [last]), context)
        assert record.payload["norm"] == pytest.approx(sequence[last].payload["norm"], rel=1e-6)
        assert record.payload["after"] == 3


def test_other_batches_give_the_same_numbers(sequence) -> None:
    """To rounding: a pass over other cases pads otherwise."""
    unit = msgspec.structs.replace(UNIT, batch=5)
    context, info = prepare(
        msgspec.structs.replace(SMOKE, units=(unit,)), Asked("world", limit=LIMIT), lambda line: None
    )
    for case, record in computed(context, info.batches(unit), unit).items():
        assert record.payload["norm"] == pytest.approx(sequence[case].payload["norm"], rel=1e-4)


def test_corrected_edits_have_no_order() -> None:
    context, info = begun(protocol="corrected")
    forth = computed(context, info.batches(UNIT))
    assert not any("after" in record.payload for record in forth.values())
    assert computed(context, info.batches(UNIT)[::-1]) == forth
    context, _ = begun(correct=("mend_training_mode",))
    assert context.order(UNIT) is None


def test_a_unit_without_batches_keeps_nothing() -> None:
    """As where a rehearsal times cases that are in no plan."""
    context, _ = begun(1)
    order = Order(context.editor("mend"), [], lambda case: None)
    order.after([1], History())
    assert order.position(1) == 0 and order.before(1) is not order.before(1)
