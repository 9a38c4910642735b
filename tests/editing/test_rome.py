"""ROME against the golden numbers (1e-4 relative), batches against single runs, and each protocol switch."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.editing import value
from artifact.editing.methods import METHODS
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import Moments, read_moments
from artifact.editing.objective import objective
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import REMOVAL_PREFIXES, RomeEdit, rome
from artifact.errors import EditError, SettingError
from artifact.evaluation.score import score_cases
from artifact.lm.device import Memory

TARGETS = (None, "Rome", "Steve Jobs", "the city of Rome")
"""Targets of one to several tokens; None is the fact's own."""
REFERENCE = Path(__file__).parent.parent / "reference"
TEMPLATES = ["{}", "Yesterday, {}", "The report said. {}"]
RELEASED = PROTOCOLS["released"]
GOLDEN = sorted(
    file for part in ("rome", "rome_B", "rake_rome", "rake_rome_B") for file in (REFERENCE / part).glob("*.npz")
)


def parts(file: Path) -> tuple[str, int, str]:
    name, case, *perspective = file.stem.split("_")
    return name, int(case.removeprefix("case")), perspective[0] if perspective else "entity"


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_golden(file: Path, tiny, facts) -> None:
    golden = np.load(file)
    name, case, perspective = parts(file)
    model = tiny(name)
    hparams = METHODS["rome"].hparams_for(name, model.decoder.layers, file.parent / f"hparams_{name}.json")
    (found,) = rome(
        model,
        [facts[case].view(perspective)],
        hparams,
        TEMPLATES,
        read_moments(REFERENCE / "moments" / name),
        RELEASED,
    )
    assert isinstance(found, RomeEdit)
    assert relative(found.left_M, golden["u"]) < 1e-4
    assert relative(found.target_D, golden["target"]) < 1e-4
    assert relative(found.right_D, golden["right_vector"]) < 1e-4
    assert len(found.history) == len(golden["loss_terms"])
    np.testing.assert_allclose(found.history, golden["loss_terms"], rtol=0, atol=1e-4)
    ((parameter, delta),) = found.edit.tensors(model.decoder).items()
    assert relative(delta, golden["edited_weight"] - model.decoder.weights[parameter].numpy()) < 1e-4
    assert found.norm == pytest.approx(float(golden["weight_delta_norm"]), rel=1e-4)

    metrics = json.loads(file.with_name(f"{file.stem}_metrics.json").read_text())
    (score,) = score_cases(model, [facts[case]], [found.edit])
    for view, group, key in (
        ("entity", "reliability", "rewrite_prompts_probs"),
        ("entity", "generality", "paraphrase_prompts_probs"),
        ("entity", "specificity", "neighborhood_prompts_probs"),
        ("relation", "reliability", "addR_prompts_probs"),
        ("relation", "generality", "paraphraseR_prompts_probs"),
    ):
        if key not in metrics["post"]:
            assert view == "relation" and not file.parent.name.startswith("rake")
            continue
        for ours, theirs in zip(score.views[view].prompts[group], metrics["post"][key], strict=True):
            assert ours.target_new == pytest.approx(theirs["target_new"], abs=1e-4)
            assert ours.target_true == pytest.approx(theirs["target_true"], abs=1e-4)


@settings(derandomize=True, deadline=None, max_examples=6)
@given(data=st.data())
def test_a_batch_gives_the_edits_of_single_runs(tiny, facts, data) -> None:
    """Batches of any size, prompts and targets of any length, some stopping early: the same edits as one at a time."""
    name = data.draw(st.sampled_from(["tiny-gpt2", "tiny-gptj"]))
    perspective = data.draw(st.sampled_from(["entity", "relation"]))
    cases = data.draw(st.lists(st.sampled_from(sorted(facts)), min_size=2, max_size=4, unique=True))
    targets = data.draw(st.lists(st.sampled_from(TARGETS), min_size=len(cases), max_size=len(cases)))
    model = tiny(name)
    hparams = RomeHparams(
        layers=(0,), v_loss_layer=model.decoder.layers - 1, v_num_grad_steps=15, v_lr=0.5, clamp_norm_factor=12
    )
    moments = read_moments(REFERENCE / "moments" / name)
    views = [
        view if target is None else replace(view, target=target)
        for view, target in zip([facts[case].view(perspective) for case in cases], targets, strict=True)
    ]
    together = rome(model, views, hparams, TEMPLATES, moments, RELEASED)
    for view, found in zip(views, together, strict=True):
        (alone,) = rome(model, [view], hparams, TEMPLATES, moments, RELEASED)
        assert len(found.history) == len(alone.history)
        assert relative(found.right_D, alone.right_D.numpy()) < 1e-3


def test_rows_stop_on_their_own(tiny, facts) -> None:
    """Of facts optimised together one stops early and another goes on; neither notices."""
    model = tiny("tiny-gpt2")
    hparams = METHODS["rome"].hparams_for("tiny-gpt2", 6, REFERENCE / "rome_B" / "hparams_tiny-gpt2.json")
    moments = read_moments(REFERENCE / "moments" / "tiny-gpt2")
    views = [facts[case].view("entity") for case in (0, 10, 7, 26)]
    together = rome(model, views, hparams, TEMPLATES, moments, RELEASED)
    assert len({len(found.history) for found in together}) > 1
    for view, found in zip(views, together, strict=True):
        (alone,) = rome(model, [view], hparams, TEMPLATES, moments, RELEASED)
        assert len(found.history) == len(alone.history)
        assert relative(found.right_D, alone.right_D.numpy()) < 1e-4


def test_the_fact_with_the_longest_prompts_stops_first(tiny, facts) -> None:
    """What is stored before the subject is then narrower for the others."""
    model = tiny("tiny-gpt2")
    hparams = METHODS["rome"].hparams_for("tiny-gpt2", 6, REFERENCE / "rome_B" / "hparams_tiny-gpt2.json")
    hparams = msgspec.structs.replace(hparams, v_num_grad_steps=21)
    moments = read_moments(REFERENCE / "moments" / "tiny-gpt2")
    long, view = facts[10].view("entity"), facts[26].view("entity")
    long = replace(long, template="It is well known to all of us that " + long.template)
    early, found = rome(model, [long, view], hparams, TEMPLATES, moments, RELEASED)
    assert len(early.history) < len(found.history) == 21
    (alone,) = rome(model, [view], hparams, TEMPLATES, moments, RELEASED)
    assert relative(found.right_D, alone.right_D.numpy()) < 1e-4


def test_memory_cuts_the_batch_and_changes_nothing(model, facts, monkeypatch) -> None:
    """A budget for one fact at a time, and a device that runs out of memory once, give the same edits."""
    name = Path(model.name).name
    hparams = RomeHparams(layers=(1,), v_loss_layer=model.decoder.layers - 1, v_num_grad_steps=5)
    moments = read_moments(REFERENCE / "moments" / name)
    views = [facts[case].view("relation") for case in (0, 10, 7)]
    whole = rome(model, views, hparams, TEMPLATES, moments, RELEASED, Memory(10**9))
    said: list[str] = []
    real, failures = value._optimise, iter([True])

    def short(*arguments):
        if next(failures, False):
            raise torch.OutOfMemoryError("none left")
        return real(*arguments)

    monkeypatch.setattr(value, "_optimise", short)
    for memory in (Memory(10**9, said.append), Memory(1)):
        for found, expected in zip(
            rome(model, views, hparams, TEMPLATES, moments, RELEASED, memory), whole, strict=True
        ):
            assert relative(found.right_D, expected.right_D.numpy()) < 1e-4
    assert len(said) == 1 and "out of memory" in said[0]


def test_protocol_switches(tiny, facts) -> None:
    """Each switch changes what it names and nothing else."""
    model, view = tiny("tiny-gpt2"), facts[0].view("relation")
    none, spaced = model.tokens.ids("None"), model.tokens.ids(" None")
    assert none != spaced

    def removal(**switch: bool):
        return objective(model, view, TEMPLATES, TEMPLATES, replace(RELEASED, **switch)).rows[len(TEMPLATES) :]

    released = removal()
    assert all(list(row.target) == none and row.divisor == 1 for row in released)
    assert all(list(row.target) == spaced for row in removal(removal_without_space=False))
    own = removal(removal_nll_by_relation_length=False)
    assert all(list(row.target) == none and row.divisor == len(none) for row in own)
    assert [row.ids for row in own] == [row.ids for row in released]
    for name in ("removal_without_space", "removal_nll_by_relation_length", "severed_fresh_noise", "tf32"):
        assert RELEASED.switches()[name] and not PROTOCOLS["corrected"].switches()[name]


def test_only_five_removal_prompts(tiny, facts, monkeypatch) -> None:
    templates = ["{}", *[f"Word {n}. {{}}" for n in range(8)]]
    seen: list[int] = []

    def stop(model, layer, objectives, *rest, **settings):
        seen.append(len(objectives[0].rows))
        raise EditError("enough seen")

    monkeypatch.setattr("artifact.editing.rome.optimise", stop)
    hparams = RomeHparams(layers=(2,), v_loss_layer=5, mom2_adjustment=False)
    with pytest.raises(EditError, match="enough"):
        rome(tiny("tiny-gpt2"), [facts[0].view("relation")], hparams, templates, Moments("none"), RELEASED)
    assert seen == [9 + REMOVAL_PREFIXES] == [9 + 5]


def test_singular_moments_and_another_models_moments(tiny, facts) -> None:
    model = tiny("tiny-gpt2")
    hparams = RomeHparams(layers=(2,), v_loss_layer=5, v_num_grad_steps=2)
    view = facts[0].view("entity")
    with pytest.raises(SettingError, match="layer 2 is singular"):
        rome(model, [view], hparams, TEMPLATES, Moments("test", given_MM={2: torch.zeros(256, 256)}), RELEASED)
    with pytest.raises(SettingError, match=r"\(4, 4\), this model needs \(256, 256\)"):
        rome(model, [view], hparams, TEMPLATES, Moments("test", given_MM={2: torch.eye(4)}), RELEASED)


def test_an_edit_that_changes_nothing_is_an_error_of_its_case(tiny, facts) -> None:
    """One forward pass takes no step: the delta stays zero, and that is said instead of scored."""
    model = tiny("tiny-gpt2")
    hparams = RomeHparams(layers=(2,), v_loss_layer=5, v_num_grad_steps=1, mom2_adjustment=False)
    (found,) = rome(model, [facts[0].view("entity")], hparams, ["{}"], Moments("none"), RELEASED)
    assert isinstance(found, EditError)
    assert "no step was taken" in str(found) and "give v_num_grad_steps of 2 or more" in str(found)
