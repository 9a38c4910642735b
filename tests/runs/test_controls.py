"""Controls are what they are called, and plan modern runs them, scores what edits leave, and reports it."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import pytest
import torch

from artifact.cli import call
from artifact.editing.edit import Dense, Edit, Edited, LowRank
from artifact.editing.editor import Editor
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import Moments
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import EditError
from artifact.facts.dataset import Data
from artifact.facts.fact import PERSPECTIVES, Fact
from artifact.lm.device import Memory
from artifact.plans import find_plans
from artifact.plans.unit import CONTROLS, Control
from artifact.runs.context import Context
from artifact.runs.controls import (
    another_layer,
    controlled_edit,
    controlled_editor,
    controlled_edits,
    shuffled_views,
)
from artifact.runs.editors import make_editor
from artifact.runs.inputs import Inputs
from artifact.runs.store import reading

REFERENCE = Path(__file__).parent.parent / "reference"


@pytest.mark.parametrize("edited", [(1,), (0, 1), (3, 4, 5), (17,), (13, 14, 15, 16, 17)])
def test_another_layer_is_none_of_the_edited(edited: tuple[int, ...]) -> None:
    layers = 48 if edited[-1] > 5 else 6
    other = another_layer(edited, layers)
    assert len(other) == len(edited) and not {*other} & {*edited} and max(other) < layers
    assert other == another_layer(edited, layers)


def test_a_model_without_other_layers_has_no_such_control(tiny) -> None:
    """Instead of the edit itself under the control's name."""
    model, method = tiny("tiny-gpt2"), METHODS["memit"]
    assert another_layer((0,), 1) == another_layer((0, 1, 2), 5) == ()
    hparams = msgspec.structs.replace(method.hparams_for("tiny-gpt2", 6), layers=(1, 2, 3, 4))
    editor = Editor(model, method, hparams, PROTOCOLS["released"], Memory(10**9))
    with pytest.raises(EditError, match="tiny-gpt2 has 6 layers, and edits of .1, 2, 3, 4. leave no others; give a"):
        controlled_editor(editor, "random_layer")


def test_the_editor_of_another_layer(tiny) -> None:
    model = tiny("tiny-gpt2")
    method = METHODS["rome"]
    editor = Editor(model, method, method.hparams_for("tiny-gpt2", 6), PROTOCOLS["released"], Memory(10**9))
    other = controlled_editor(editor, "random_layer").hparams
    assert other.layers != editor.hparams.layers and other.v_loss_layer == editor.hparams.v_loss_layer
    assert controlled_editor(editor, "random_direction") is editor


SAME_SHAPE = ("rome", "rrome", "memit", "emmet", "alphaedit", "pmet", "rets", "ft")
"""Methods that edit the layers which their hyperparameters name: every control is one of theirs, too."""


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_every_method_of_chosen_layers_has_the_same_controls(name: str, tiny, facts, few_steps: int) -> None:
    """By the shared mechanism: of other layers, of equal norm in each weight, and of another subject."""
    model, fact, other = tiny("tiny-gpt2"), facts[0], facts[10]
    width = model.decoder.weights["transformer.h.0.mlp.c_proj.weight"].shape[0]
    moments = Moments("of the test", given_MM=dict.fromkeys(range(6), torch.linspace(0.01, 1, width).diag()))
    editor = make_editor(model, name, PROTOCOLS["released"], moments=moments, facts=REFERENCE / "facts.json")

    def edit(control: Control | None) -> Edited:
        made = controlled_editor(editor, control)
        (found,) = controlled_edits(made, [fact], "entity", control, lambda fact: other)
        assert isinstance(found, Edited), found
        return found

    def layers(edited: Edited) -> set[int]:
        return {int(name.split(".")[2]) for name in edited.edit.changes}

    own, elsewhere, drawn, shuffled = (edit(control) for control in (None, *CONTROLS))
    assert layers(own) == layers(drawn) == layers(shuffled) == {*editor.hparams.edited}
    assert len(layers(elsewhere)) == len(layers(own)) and not layers(elsewhere) & layers(own)
    for weight, change in own.edit.changes.items():
        assert drawn.edit.changes[weight].norm() == pytest.approx(change.norm(), rel=1e-4)
        assert type(drawn.edit.changes[weight]) is type(change)
    weight = next(iter(own.edit.changes))
    one, two, three = (edited.edit.tensors(model.decoder)[f"{weight}.weight"] for edited in (own, drawn, shuffled))
    assert abs(float(torch.cosine_similarity(one.flatten(), two.flatten(), dim=0))) < 0.5
    assert not torch.allclose(one, three)


def test_a_random_direction_has_the_norm_and_the_rank() -> None:
    torch.manual_seed(0)
    changes = {"a": LowRank(torch.randn(8, 2), torch.randn(2, 4)), "b": Dense(torch.randn(8, 4), torch.randn(4))}
    edited = Edited(edit=Edit(changes), norm=Edit(changes).norm())
    found, again, other = (controlled_edit(edited, "random_direction", case) for case in (7, 7, 8))
    for name, change in changes.items():
        drawn = found.edit.changes[name]
        assert type(drawn) is type(change) and drawn.norm() == pytest.approx(change.norm())
    assert found.norm == edited.norm
    left = found.edit.changes["a"].left_IR
    assert torch.equal(left, again.edit.changes["a"].left_IR) and not torch.equal(left, other.edit.changes["a"].left_IR)
    assert abs(float(torch.cosine_similarity(left.flatten(), changes["a"].left_IR.flatten(), dim=0))) < 0.9
    assert controlled_edit(edited, "shuffled_subject", 7) is edited


def test_a_shuffled_subject_is_another_facts(facts) -> None:
    views = [facts[0].view("relation")]
    (shuffled,) = shuffled_views(views, [facts[10]])
    assert shuffled.subject == facts[10].subject and shuffled.template == views[0].template


def test_the_other_subject_is_another_one(tiny, facts) -> None:
    """Of facts without relation fields too, and never the edited fact's own under the control's name."""
    bare = [replace(facts[case], relation=None) for case in (0, 10)]
    same = replace(facts[10], subject=facts[0].subject, case_id=99)

    def following(*chosen: Fact) -> Fact:
        data = Data(list(chosen), [], "chosen", "", "")
        context = Context(tiny("tiny-gpt2"), Inputs(data, data), PROTOCOLS["released"], 0.1, Memory(1), ())
        return context.following(chosen[0])

    assert following(*bare).subject == facts[10].subject
    assert following(facts[0], same, facts[10]).subject == facts[10].subject
    with pytest.raises(EditError, match="no other fact has another subject"):
        following(facts[0], same)


def test_the_plan_takes_every_method_that_edits_a_fact_alone() -> None:
    (plan,) = find_plans("modern")
    assert {unit.method for unit in plan.units if not unit.task} == {"none", *METHODS} - {"memit_merge"}
    assert "memit_merge" in {unit.method for unit in plan.units if unit.task}, "of many facts it is itself"
    assert {unit.control for unit in plan.units} == {None, *CONTROLS}
    assert all(unit.further and unit.most == 60 for unit in plan.units if not unit.task)
    for name in ("modern", "beyond"):
        controlled = [
            (unit.method, unit.perspective, unit.control) for unit in find_plans(name)[0].units if unit.control
        ]
        assert sorted(controlled) == sorted(product(("rome", "memit"), PERSPECTIVES, CONTROLS))


def test_a_run_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--model", str(REFERENCE / "models" / "tiny-gpt2"), "--facts", str(REFERENCE / "facts.json")]
    assert call(["run", "modern", *asked, "--limit", "1", "--methods", "rome"]) == 0
    (folder,) = Path("results").iterdir()
    with reading(folder) as store:
        units = {unit.name: unit for unit in store.info().plan.units if not unit.task}
        assert len(units) == 1 + 2 * (1 + len(CONTROLS))
        for unit in units.values():
            (record,) = store.records(unit)
            assert record.status == "done", record
            further = record.payload["further"]
            assert set(further) == {"generation", "removal"} and set(further["generation"]) == {"entity", "relation"}
            assert further["removal"]["removed"] == (further["removal"]["none"] < further["removal"]["relation"])
        edit, other = (
            store.records(units[name])[0].payload for name in ("rome-entity", "rome-entity-random_direction")
        )
        assert edit["norm"] == other["norm"] and edit["views"] != other["views"]
    text = (folder / "report" / "report.md").read_text()
    assert "Beyond success: removal and generation" in text and "ROME, another layer" in text
    page = (folder / "report" / "report.html").read_text()
    assert "Beyond success: removal and generation" in page and "transfer-gap" in json.dumps(
        sorted(path.name for path in (folder / "report" / "figures").iterdir())
    )
