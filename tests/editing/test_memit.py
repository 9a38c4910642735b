"""MEMIT against the golden numbers (1e-4 relative), batches against single runs, mass edits, and its switches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.editing.memit import MemitEdit, memit
from artifact.editing.methods import METHODS
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.moments.files import Moments, read_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import EditError, SettingError

REFERENCE = Path(__file__).parent.parent / "reference"
GROUPS = [["{}"], ["Yesterday, {}", "The report said. {}"]]
RELEASED = PROTOCOLS["released"]
GOLDEN = sorted(file for part in ("memit", "rake_memit") for file in (REFERENCE / part).glob("*.npz"))


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


def hparams_of(model, folder: str = "memit") -> MemitHparams:
    name = Path(model.name).name
    return METHODS["memit"].hparams_for(name, model.decoder.layers, REFERENCE / folder / f"hparams_{name}.json")


def moments_of(model) -> Moments:
    return read_moments(REFERENCE / "moments" / Path(model.name).name)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_golden(file: Path, tiny, facts) -> None:
    """Values, keys, states, residuals, adjusted keys and weight changes of every layer."""
    golden = np.load(file)
    name, perspective, cases = file.stem.split("_", 2)
    chosen = [int(case) for case in cases.removeprefix("cases").replace("-", "_").replace(",", "_").split("_")]
    model = tiny(name)
    hparams = hparams_of(model, file.parent.name)
    views = [facts[case].view(perspective) for case in chosen]
    (found,) = memit(model, [views], hparams, GROUPS, moments_of(model), RELEASED)
    assert isinstance(found, MemitEdit)
    assert relative(found.values_ND.t(), golden["zs"]) < 1e-5
    for n, case in enumerate(chosen):
        assert len(found.history[n]) == len(golden[f"z_case{case}_loss"])
        np.testing.assert_allclose(found.history[n], golden[f"z_case{case}_loss"], rtol=0, atol=1e-4)
    for layer in hparams.layers:
        written = found.written[layer]
        assert relative(written.keys_NM.t(), golden[f"layer{layer}_layer_ks"]) < 1e-5
        assert relative(written.current_ND.t(), golden[f"layer{layer}_cur_zs"]) < 1e-5
        assert relative(written.residual_ND.t(), golden[f"layer{layer}_resid"]) < 1e-5
        assert relative(written.adjusted_NM.t(), golden[f"layer{layer}_adj_k"]) < 1e-5
    tensors = found.edit.tensors(model.decoder)
    expected = {key.removeprefix("edited_delta."): golden[key] for key in golden if key.startswith("edited_delta.")}
    assert tensors.keys() == expected.keys()
    for parameter, delta in tensors.items():
        assert relative(delta, expected[parameter]) < 1e-4


@settings(derandomize=True, deadline=None, max_examples=6)
@given(data=st.data())
def test_a_batch_gives_the_edits_of_single_runs(tiny, facts, data) -> None:
    """Groups of any size, facts of any length, either view: each as if it were the only one."""
    model = tiny(data.draw(st.sampled_from(["tiny-gpt2", "tiny-gptj"])))
    hparams = MemitHparams(
        layers=(0, 1, 2), v_loss_layer=model.decoder.layers - 1, mom2_update_weight=5.0, v_num_grad_steps=6
    )
    perspective = data.draw(st.sampled_from(["entity", "relation"]))
    cases = data.draw(st.lists(st.sampled_from(sorted(facts)), min_size=2, max_size=5, unique=True))
    targets = data.draw(st.lists(st.sampled_from(["Rome", "Steve Jobs"]), min_size=len(cases), max_size=len(cases)))
    views = [replace(facts[case].view(perspective), target=t) for case, t in zip(cases, targets, strict=True)]
    cut = data.draw(st.integers(1, len(cases)))
    groups = [views[:cut], *([view] for view in views[cut:])]
    together = memit(model, groups, hparams, GROUPS, moments_of(model), RELEASED)
    for group, found in zip(groups, together, strict=True):
        (alone,) = memit(model, [group], hparams, GROUPS, moments_of(model), RELEASED)
        for parameter, delta in found.edit.tensors(model.decoder).items():
            assert relative(delta, alone.edit.tensors(model.decoder)[parameter].numpy()) < 1e-4


def test_layers_need_not_be_neighbours(tiny, facts) -> None:
    """Each layer's residual is measured with the layers below already changed, through the layers between."""
    model = tiny("tiny-gpt2")
    hparams = MemitHparams(layers=(0, 3), v_loss_layer=5, mom2_update_weight=1.0, v_num_grad_steps=10)
    (found,) = memit(model, [[facts[0].view("entity")]], hparams, GROUPS, moments_of(model), RELEASED)
    first, last = (found.written[layer] for layer in hparams.layers)
    view = facts[0].view("entity")
    encoded = model.tokens.encode(view.reliability[0])
    at = encoded.find(view.subject)[-1]
    lower = replace(found.edit, changes={k: v for k, v in found.edit.changes.items() if ".h.0." in k})
    with torch.no_grad():
        word_BTD = model.decoder.words(torch.tensor([encoded.ids]))
        states = model.decoder.blocks(model.decoder.embed(word_BTD), 0, 4, edits=lower.changes)
    torch.testing.assert_close(last.current_ND[0], states[0, at], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first.residual_ND * 2, (found.values_ND - first.current_ND).double())
    torch.testing.assert_close(last.residual_ND, (found.values_ND - last.current_ND).double())


def test_a_mass_edit_writes_all_its_facts(model, facts) -> None:
    """With next to no weight on the second moments and the bare prompt as only prefix, every value is reached."""
    hparams = MemitHparams(
        layers=(0, 1), v_loss_layer=model.decoder.layers - 1, mom2_update_weight=1e-7, v_num_grad_steps=10
    )
    views = [facts[case].view("entity") for case in (0, 10, 7, 26)]
    (found,) = memit(model, [views], hparams, [["{}"]], moments_of(model), RELEASED)
    for n, view in enumerate(views):
        encoded = model.tokens.encode(view.reliability[0])
        with torch.no_grad():
            word_BTD = model.decoder.words(torch.tensor([encoded.ids]))
            states = model.decoder.blocks(model.decoder.embed(word_BTD), 0, 2, edits=found.edit.changes)
        reached_D = states[0, encoded.find(view.subject)[-1]]
        assert relative(reached_D, found.values_ND[n].numpy()) < 1e-2
        assert relative(found.written[0].current_ND[n], found.values_ND[n].numpy()) > 0.1
    assert found.told()["steps"] == max(len(terms) for terms in found.history)


@pytest.mark.parametrize("switch", [True, False])
def test_how_many_removal_prefixes(switch: bool, tiny, facts, monkeypatch) -> None:
    """As released, the slice of five is over groups, so all prefixes are used; corrected, five."""
    seen: list[int] = []

    def stop(model, layer, objectives, *rest, **more):
        seen.append(len(objectives[0].rows))
        raise EditError("enough seen")

    monkeypatch.setattr("artifact.editing.memit.optimise", stop)
    model = tiny("tiny-gpt2")
    groups = [["{}"], [f"Word {n}. {{}}" for n in range(7)]]
    protocol = replace(RELEASED, memit_all_removal_prefixes=switch)
    with pytest.raises(EditError, match="enough"):
        memit(model, [[facts[0].view("relation")]], hparams_of(model), groups, moments_of(model), protocol)
    assert seen == [8 + 8 if switch else 8 + 5]


def test_guards(tiny, facts) -> None:
    model, view = tiny("tiny-gpt2"), facts[0].view("entity")
    hparams = MemitHparams(layers=(2,), v_loss_layer=5, v_num_grad_steps=1)
    (found,) = memit(model, [[view]], hparams, GROUPS, moments_of(model), RELEASED)
    assert isinstance(found, EditError) and "no step was taken" in str(found)  # one forward pass takes no step
    with pytest.raises(SettingError, match="layer 2 is singular"):
        memit(model, [[view]], hparams, GROUPS, Moments("test", given_MM={2: torch.zeros(256, 256)}), RELEASED)
