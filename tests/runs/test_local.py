"""What a unit makes of facts that cannot be edited: a failed record with its reason, and the others untouched."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from artifact.editing.kn import neurons_above
from artifact.editing.mend_network import Network
from artifact.editing.moments.files import Moments
from artifact.plans.paper import SMOKE, SMOKE_FEW_FACTS
from artifact.reporting.report import render, repeat_command
from artifact.reporting.tables import own_rows
from artifact.runs import editors
from artifact.runs.context import Context
from artifact.runs.inputs import Given
from artifact.runs.local import compute
from artifact.runs.resolve import Asked, prepare
from artifact.runs.store import begin, writing

UNITS = {unit.name: unit for unit in SMOKE.units}
METHODS = ("ft", "kn", "mend", "rome", "memit")


@pytest.fixture(scope="module")
def prepared() -> Context:
    return prepare(SMOKE, Asked("world", limit=2), lambda line: None)[0]


@pytest.fixture
def world(prepared: Context) -> Context:
    """A context whose editors a test may exchange."""
    return replace(prepared, _editors=dict(prepared._editors))


@pytest.mark.parametrize("method", METHODS)
def test_a_fact_that_cannot_be_asked_fails_alone(method: str, world: Context) -> None:
    good = world.inputs.edited.facts[0]
    bad = replace(world.inputs.edited.facts[1], subject="Quetzalcoatl")
    before = world.model.weights_hash()
    first, second = compute(UNITS[f"{method}-entity"], [good, bad], world)
    assert (first.case_id, first.status) == (good.case_id, "done")
    assert (second.case_id, second.status) == (bad.case_id, "failed")
    assert "Quetzalcoatl" in second.reason and "vocabulary" in second.reason
    assert first.payload["norm"] > 0 and len(first.payload["hparams"]) == 12
    (alone,) = compute(UNITS[f"{method}-entity"], [good], world)
    assert alone.payload["norm"] == pytest.approx(first.payload["norm"], rel=1e-4)
    assert world.model.weights_hash() == before


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_singular_moments_fail_every_case_with_the_reason(method: str, world: Context) -> None:
    width = 4 * world.model.decoder.width
    zero = Moments("too few texts", given_MM={layer: torch.zeros(width, width) for layer in range(6)})
    world._editors["rome", ()] = replace(world.editor("rome"), moments=zero)
    world._editors["memit", ()] = replace(world.editor("memit"), moments=zero)
    records = compute(UNITS[f"{method}-relation"], world.inputs.edited.facts[:2], world)
    assert [record.status for record in records] == ["failed", "failed"]
    assert all("singular" in record.reason and "too few texts" in record.reason for record in records)


def test_weights_of_another_model_fail_every_case(world: Context) -> None:
    network = world.editor("mend").network
    assert network is not None
    (shape, *_) = network.transforms
    other = replace(network, transforms={(4, 4): network.transforms[shape]})
    world._editors["mend", ()] = replace(world.editor("mend"), network=other)
    (record,) = compute(UNITS["mend-entity"], world.inputs.edited.facts[:1], world)
    assert record.status == "failed" and "(4, 4)" in record.reason


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_an_edit_without_effect_is_a_failure(method: str, world: Context) -> None:
    """One forward pass takes no step: nothing is changed, and no number is made up for it."""
    editor = world.editor(method)
    world._editors[method, ()] = replace(editor, hparams=msgspec.structs.replace(editor.hparams, v_num_grad_steps=1))
    (record,) = compute(UNITS[f"{method}-entity"], world.inputs.edited.facts[:1], world)
    assert record.status == "failed" and "no step was taken" in record.reason


def test_kn_without_a_neuron_is_scored_and_counted(
    world: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As released the record is done and says why nothing was edited, and the tables count it; corrected it fails."""
    facts, unit, editor = world.inputs.edited.facts[:2], UNITS["kn-relation"], world.editor("kn")
    entity = compute(UNITS["kn-entity"], facts, world)
    # No attribution above zero, as a prompt has whose answer every neuron speaks against.
    monkeypatch.setattr(
        "artifact.editing.kn.neurons_above", lambda scores_LM, share: neurons_above(-scores_LM.abs(), share)
    )
    records = compute(unit, facts, world)
    assert [record.status for record in records] == ["done", "done"]
    plain = compute(UNITS["unedited"], facts, world)
    for record, unedited in zip(records, plain, strict=True):
        told = record.payload
        assert told["unedited"] is True and told["neurons"] == 0 and told["norm"] == 0.0
        assert told["unedited_reason"] == "no neuron's attribution is above the threshold"
        assert told["views"] == unedited.payload["views"]
    info = prepare(SMOKE, Asked("world", limit=2), lambda line: None)[1]
    with writing(tmp_path / "run") as store:
        begin(store, info)
        for record in records:
            store.add(unit, record)
        for record in entity:
            store.add(UNITS["kn-entity"], record)
        rows = {row.unit: row for row in own_rows(store)}
        page, _ = render(store, folder=tmp_path / "report")
    assert (rows["kn-relation"].unedited, rows["kn-relation"].done, rows["kn-entity"].unedited) == (2, 2, 0)
    assert rows["kn-relation"].printed_method == "KN, undone, 2 without a neuron"
    assert "KN, undone, 2 without a neuron" in page.read_text()
    assert "KN, undone, 2 without a neuron" in page.with_suffix(".md").read_text()
    failing = replace(editor.protocol, kn_without_neuron_scored=False)
    world._editors["kn", ()] = replace(editor, protocol=failing)
    failed = compute(unit, facts, world)
    assert {record.status for record in failed} == {"failed"}
    assert all("no neuron's attribution is above the threshold" in record.reason for record in failed)


def test_indefinite_moments_are_noted_in_every_record(world: Context) -> None:
    """No case fails, and each says how it was solved."""
    width = 4 * world.model.decoder.width
    turned_M = torch.ones(width)
    turned_M[::7] = -1.0
    moments = Moments("turned", given_MM={layer: torch.diag(turned_M) for layer in range(6)})
    for method, layers in (("rome", "layer 1"), ("memit", "layers 0, 1")):
        world._editors[method, ()] = replace(world.editor(method), moments=moments)
        records = compute(UNITS[f"{method}-entity"], world.inputs.edited.facts[:2], world)
        words = f"second moments of {layers} are not positive definite: solved by LU"
        assert [(record.status, record.payload.get("note")) for record in records] == [("done", words)] * 2


def test_mend_without_weights_is_left_out_with_its_reason(world: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.runs.context.lacking", lambda model, method, file: "MEND needs weights")
    records = compute(UNITS["mend-entity"], world.inputs.edited.facts[:3], world)
    assert {(record.status, record.reason) for record in records} == {("excluded", "MEND needs weights")}
    renamed = replace(world.model, name="gpt2")
    assert "kloc mend-train" in (editors.lacking(renamed, "mend") or "")
    assert editors.lacking(renamed, "mend", Path("given.safetensors")) is None
    assert editors.lacking(renamed, "rome") is None and editors.lacking(world.model, "mend") is None


def test_a_run_takes_the_users_moments_and_weights(reference: Path) -> None:
    """What is given is used, recorded with its hash, and named in the command that repeats the run."""
    moments, network = reference / "moments" / "tiny-gpt2", reference / "mend" / "mend_network.npz"
    model = str(reference / "models" / "tiny-gpt2")
    context, info = prepare(
        SMOKE, Asked(model, limit=1, given=Given(moments=moments, mend_weights=network)), lambda line: None
    )
    (record,) = compute(UNITS["mend-entity"], context.inputs.edited.facts[:1], context)
    assert record.status == "done" and record.payload["norm"] > 0
    assert info.settings["rome"]["moments"] == info.settings["memit"]["moments"] == "folder tiny-gpt2"
    assert re.fullmatch(r"file mend_network.npz, sha256 [0-9a-f]{12}", info.settings["mend"]["weights"])
    assert repeat_command(info).endswith(f"--limit 1 --mend-weights {network} --moments {moments}")


def test_a_model_that_takes_seconds_a_fact_runs_on_few(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, the smoke plan on GPT-2 takes few facts and says so; a small model takes them all."""
    model, said = str(reference / "models" / "tiny-gpt2"), []
    monkeypatch.setattr("artifact.runs.resolve.choose_device", lambda asked: ("cpu", "test"))
    assert prepare(SMOKE, Asked(model), said.append)[1].plan == SMOKE
    assert not any("few facts" in line for line in said)
    monkeypatch.setattr("artifact.runs.resolve.SMALL_EMBEDDING", 1)
    plan = prepare(SMOKE, Asked(model), said.append)[1].plan
    assert plan == SMOKE_FEW_FACTS and any("few facts" in line for line in said)
    assert [unit.name for unit in plan.units] == [unit.name for unit in SMOKE.units]
    assert all(unit.most is not None and unit.most <= 4 for unit in plan.units if unit.does != "unedited")


def test_mends_network_is_moved_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all batches of all units."""
    moved: list[Network] = []
    really = Network.to

    def to(network: Network, *given: object) -> Network:
        moved.append(network)
        return really(network, *given)

    monkeypatch.setattr(Network, "to", to)
    units = (UNITS["mend-entity"], UNITS["mend-relation"])
    context, _ = prepare(msgspec.structs.replace(SMOKE, units=units), Asked("world", limit=2), lambda line: None)
    for unit in units:
        for fact in context.inputs.edited.facts[:2]:
            assert compute(unit, [fact], context)[0].status == "done"
    assert len(moved) == 1


@pytest.mark.parametrize(
    ("unit", "where"),
    [
        ("rome-entity", "artifact.editing.value._optimise"),
        ("memit-entity", "artifact.editing.value._optimise"),
        ("ft-entity", "artifact.editing.ft._tune"),
        ("trace-hidden-entity", "artifact.tracing.trace.sweep"),
        ("unedited", "artifact.runs.local.score_cases"),
    ],
)
def test_what_the_device_cannot_hold_is_no_result(
    unit: str, where: str, world: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    data = world.inputs.traced.statements if UNITS[unit].does == "trace" else world.inputs.edited.facts
    items = data[:2]
    monkeypatch.setattr(where, full)
    records = compute(UNITS[unit], items, world)
    assert [(record.case_id, record.status) for record in records] == [(item.case_id, "undone") for item in items]
    assert all("not fit the device's memory" in record.reason for record in records)
    monkeypatch.undo()
    assert {record.status for record in compute(UNITS[unit], items, world)} <= {"done", "excluded"}
