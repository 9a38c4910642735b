"""Knowledge Neurons against the golden numbers and a plain autograd loop, batches against single runs, each switch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact.editing import kn as kn_module
from artifact.editing.edit import LowRank
from artifact.editing.kn import KnEdit, attributions, kn, neurons_above, refined
from artifact.editing.methods import METHODS
from artifact.editing.methods.kn import KnHparams
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import EditError, PromptError
from artifact.evaluation.score import score_cases
from artifact.lm.decoder import AtSite
from artifact.lm.device import Memory
from artifact.lm.family import RowEdits
from artifact.lm.load import LanguageModel, load_folder

REFERENCE = Path(__file__).parent.parent / "reference"
RELEASED = PROTOCOLS["released"]
PLENTY = Memory(2_000_000_000)
RUNS = {
    f"{folder}-{run['file']}": (folder, run)
    for folder in ("kn_rake", "kn_eleuther")
    for run in json.loads((REFERENCE / folder / "index.json").read_text())["runs"]
    if "error" not in run
}
RAKE = [name for name in RUNS if name.startswith("kn_rake")]
SPACED = [name for name, (_, run) in RUNS.items() if "suppress" in run]
WORDS = ["The", "relation", "between", "Lyon", "and", "soccer", "is", "of", "LeBron", "James", "plays", "sport"]


def golden(name: str) -> dict[str, np.ndarray]:
    folder, run = RUNS[name]
    return dict(np.load(REFERENCE / folder / f"{run['file']}.npz"))


def pairs(array_N2: np.ndarray) -> list[tuple[int, int]]:
    return [(layer, index) for layer, index in array_N2.tolist()]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def grown(model: LanguageModel, run: dict, ids: str, edits: RowEdits, at_site: AtSite | None = None) -> dict:
    """What the golden runs report: the probability of the target's tokens and of the greedy ones, each after the
    prompt and the greedy tokens before it.
    """
    prompt, target_probability, greedy_probability, decoder = model.tokens.ids(run["prompt"]), 1.0, 1.0, model.decoder
    greedy = []
    for token in run[ids]:
        word_BTD = decoder.words(torch.tensor([[*prompt, *greedy]]))
        final_BTD = decoder.blocks(decoder.embed(word_BTD), edits=edits, at_site=at_site)
        probability_V = decoder.logits(final_BTD[0, -1:])[0].softmax(-1)
        greedy.append(int(probability_V.argmax()))
        target_probability *= float(probability_V[token])
        greedy_probability *= float(probability_V[greedy[-1]])
    return {
        "gt_prob": pytest.approx(target_probability, rel=1e-4),
        "argmax_prob": pytest.approx(greedy_probability, rel=1e-4),
        "argmax_completion": model.tokens.decode(greedy),
    }


@pytest.mark.parametrize("name", RUNS)
def test_golden_scores_and_neurons(name: str, tiny) -> None:
    """Scores to 1e-5 of the largest, neuron lists as they stand, the union of lists (no refinement) included."""
    _, run = RUNS[name]
    expected = golden(name)
    found = attributions(tiny("tiny-gpt2"), run["prompts"], [run["ground_truth_ids"]] * 3, 20, PLENTY)
    for scores in ("scores", "scores_bs10"):
        np.testing.assert_allclose(found[0], expected[scores], rtol=0, atol=1e-5 * np.abs(expected[scores]).max())
    coarse = [neurons_above(scores_LM, 0.2) for scores_LM in found]
    assert coarse[0] == pairs(expected["coarse_adaptive0.2"]) == pairs(expected["neurons_1prompt"])
    assert refined(coarse, 0.4) == pairs(expected["refined_3prompts_p0.4"])
    assert refined(coarse, 0.7) == pairs(expected["refined_3prompts_p0.7"])
    if "refined_3prompts_norefine" in expected:
        assert refined(coarse, 0.0) == pairs(expected["refined_3prompts_norefine"])


@pytest.mark.parametrize("name", RAKE)
def test_golden_edit(name: str, tiny, facts) -> None:
    """The edit of a view: neurons, every changed weight, and what the edited model then says."""
    _, run = RUNS[name]
    model, expected = tiny("tiny-gpt2"), golden(name)
    protocol = replace(RELEASED, kn_without_space=name.endswith("_nospace"))
    view = facts[run["case_id"]].view(run["perspective"])
    (found,) = kn(model, [view], KnHparams(), protocol)
    assert isinstance(found, KnEdit)
    assert list(found.neurons) == pairs(expected["neurons_1prompt"])
    assert_weights(model, found, expected)
    delta = torch.cat(list(found.edit.tensors(model.decoder).values()))
    assert found.norm == pytest.approx(float(delta.norm()), rel=1e-6)
    assert found.told() == {"norm": found.norm, "neurons": len(found.neurons)}
    assert run["edit"]["before"] == grown(model, run, "target_ids", {})
    assert run["edit"]["after"] == grown(model, run, "target_ids", found.edit.changes)


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_golden_edit_by_published_hparams(perspective: str, tiny, facts) -> None:
    model = tiny("tiny-gpt2")
    hparams = METHODS["kn"].hparams_for("tiny-gpt2", model.decoder.layers, REFERENCE / "kn_rake" / "hparams.json")
    (found,) = kn(model, [facts[15].view(perspective)], hparams, RELEASED)
    assert_weights(model, found, np.load(REFERENCE / "kn_rake" / f"apply_case15_{perspective}_copy.npz"))


def assert_weights(model: LanguageModel, found: KnEdit, expected) -> None:
    """All changed weights and no others, as they are after the edit."""
    delta = found.edit.tensors(model.decoder)
    edited = {key.removeprefix("edited."): expected[key] for key in expected if key.startswith("edited.")}
    assert set(delta) == set(edited)
    for parameter, weight in edited.items():
        np.testing.assert_allclose(model.decoder.weights[parameter] + delta[parameter], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SPACED)
@pytest.mark.parametrize(("experiment", "factor"), [("suppress", 0.0), ("enhance", 2.0)])
def test_golden_activations_changed(name: str, experiment: str, factor: float, tiny) -> None:
    """The site of the neurons is `up` at the last token: times 0 or 2, the probabilities are the golden ones."""
    _, run = RUNS[name]
    chosen_N2 = torch.tensor(golden(name)["activation_edit_neurons"])

    def change(site, layer, value_BTM):
        if site != "up":
            return None
        value_BTM[:, -1, chosen_N2[chosen_N2[:, 0] == layer, 1]] *= factor
        return value_BTM

    assert run[experiment]["before"] == grown(tiny("tiny-gpt2"), run, "ground_truth_ids", {})
    assert run[experiment]["after"] == grown(tiny("tiny-gpt2"), run, "ground_truth_ids", {}, change)


@pytest.mark.parametrize("name", [name for name in SPACED if "erase" in RUNS[name][1]])
def test_golden_rows_erased(name: str, tiny) -> None:
    """The rows of the down-projection that an edit writes to are those of the neurons: erased, as in the goldens."""
    _, run = RUNS[name]
    model = tiny("tiny-gpt2")
    edits = {}
    for layer in range(model.decoder.layers):
        module = model.decoder.family.name("mlp_down", layer)
        chosen = [index for at, index in pairs(golden(name)["coarse_adaptive0.2"]) if at == layer]
        weight_MD = model.decoder.weights[f"{module}.weight"]
        edits[module] = LowRank(torch.eye(len(weight_MD))[:, chosen], -weight_MD[chosen])
    assert run["erase"]["after"] == grown(model, run, "ground_truth_ids", edits)


def plain(model: LanguageModel, prompt: str, target: list[int], steps: int) -> torch.Tensor:
    """Attributions one layer, one point and one target token at a time, each over the whole prompt."""
    decoder, scores = model.decoder, []
    hidden_BTD = decoder.embed(decoder.words(torch.tensor([model.tokens.ids(prompt)])))
    unedited: list[torch.Tensor] = []
    with torch.no_grad():
        decoder.blocks(hidden_BTD, at_site=lambda site, _, value: unedited.append(value) if site == "up" else None)
    for layer in range(decoder.layers):
        up_M = unedited[layer][0, -1]
        total_M = torch.zeros_like(up_M)
        for step in range(steps):
            for token in target:
                point_M = (up_M * step / (steps - 1)).requires_grad_()

                def put(site, at, value_BTM, layer=layer, point_M=point_M):
                    if (site, at) == ("up", layer):
                        return torch.cat((value_BTM[:, :-1], point_M[None, None]), dim=1)
                    return None

                final_BTD = decoder.blocks(hidden_BTD, at_site=put)
                decoder.logits(final_BTD[0, -1:])[0].softmax(-1)[token].backward()
                total_M += point_M.grad / len(target)
        scores.append(total_M * up_M / steps)
    return torch.stack(scores)


def test_equal_to_a_plain_loop(model) -> None:
    """Both families; prompts of one token and of several, targets of one token and of several, in one batch."""
    prompts = ["The", "Lyon is", "The relation between LeBron James and soccer is"]
    targets = [[7], [83, 302, 525], [83, 294]]
    found = attributions(model, prompts, targets, 4, PLENTY)
    for prompt, target, scores_LM in zip(prompts, targets, found, strict=True):
        assert relative(scores_LM, plain(model, prompt, target, 4)) < 1e-5


ASKED = st.lists(
    st.tuples(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join),
        st.lists(st.integers(1, 799), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


@settings(derandomize=True, deadline=None, max_examples=12)
@given(asked=ASKED, steps=st.integers(2, 6), budget=st.sampled_from([1, 3_000_000, 20_000_000]))
def test_a_batch_gives_the_scores_of_single_runs(model, asked, steps: int, budget: int) -> None:
    """Whatever stands beside a prompt, and wherever memory cuts the work, in the middle of an integral too."""
    prompts, targets = zip(*asked, strict=True)
    together = attributions(model, prompts, targets, steps, Memory(budget))
    for prompt, target, scores_LM in zip(prompts, targets, together, strict=True):
        (alone_LM,) = attributions(model, [prompt], [target], steps, PLENTY)
        assert relative(scores_LM, alone_LM) < 1e-5


@pytest.mark.parametrize("refine", [False, True])
def test_a_batch_gives_the_edits_of_single_runs(model, facts, refine: bool) -> None:
    views = [view for case in (0, 15, 7) for view in facts[case].views()]
    hparams = KnHparams(steps=5, refine=refine)
    together = kn(model, views, hparams, RELEASED)
    counts = set()
    for view, found in zip(views, together, strict=True):
        (alone,) = kn(model, [view], hparams, RELEASED)
        assert isinstance(found, KnEdit) and found.neurons == alone.neurons
        assert found.norm == alone.norm and list(found.edit.changes) == list(alone.edit.changes)
        for parameter, delta in found.edit.tensors(model.decoder).items():
            assert torch.equal(delta, alone.edit.tensors(model.decoder)[parameter])
        counts.add(len(found.neurons))
    assert len(counts) > 3, "these edits hardly differ: the test no longer tells one fact from another"
    assert kn(model, [], hparams, RELEASED) == []


def test_an_edit_writes_to_the_neurons_rows(model, facts) -> None:
    """Both orientations of the weight: the chosen neurons' rows change by one vector, all else stays."""
    decoder, view = model.decoder, facts[0].view("relation")
    (found,) = kn(model, [view], KnHparams(), RELEASED)
    with torch.no_grad():
        word_BTD = decoder.words(torch.tensor([model.tokens.ids(view.reliability[0])]))
        greedy = int(decoder.logits(decoder.blocks(decoder.embed(word_BTD))[0, -1:]).argmax())
    embedding_VD = decoder.embedding_VD
    expected_D = sum(embedding_VD[token] for token in model.tokens.ids(view.target)) - 2 * embedding_VD[greedy]
    for parameter, delta in found.edit.tensors(decoder).items():
        assert delta.shape == decoder.weights[parameter].shape
        rows_MD = delta if decoder.family.input_first else delta.t()
        layer = int(parameter.split(".")[2])
        chosen = [index for at, index in found.neurons if at == layer]
        assert rows_MD.any(dim=1).nonzero()[:, 0].tolist() == chosen
        torch.testing.assert_close(rows_MD[chosen], expected_D.expand(len(chosen), -1))


@pytest.mark.parametrize("p", [0.4, 0.7])
def test_refinement_asks_the_rephrasings(p: float, tiny, facts) -> None:
    """Neurons of the view's prompt and its rephrasings, counted; the golden's three prompts are these."""
    name = "kn_rake-tiny-gpt2_case15_entity_nospace"
    view = facts[15].view("entity")
    assert [view.reliability[0], *view.generality] == RUNS[name][1]["prompts"]
    (found,) = kn(tiny("tiny-gpt2"), [view], KnHparams(refine=True, p=p), RELEASED)
    assert list(found.neurons) == pairs(golden(name)[f"refined_3prompts_p{p}"])


def test_protocol_switch(tiny, facts) -> None:
    """Without their space other texts are meant, and no other switch is KN's own to follow."""
    view = facts[15].view("entity")

    def neurons(**switch: bool) -> tuple:
        (found,) = kn(tiny("tiny-gpt2"), [view], KnHparams(steps=4), replace(RELEASED, **switch))
        return found.neurons

    released = neurons()
    assert neurons(kn_without_space=False) != released
    assert neurons(kn_undone=False) == released
    assert neurons(kn_without_space=False) == neurons(**PROTOCOLS["corrected"].switches())


@pytest.mark.parametrize(("name", "argument"), [("_store", 1), ("_gradients", 2)])
def test_out_of_memory_halves_and_goes_on(name: str, argument: int, tiny, monkeypatch) -> None:
    """Either pass is cut smaller; what is found stays the same, and a single unit that does not fit is an error."""
    asked = (["Lyon is", "The relation between LeBron James and soccer is"], [[7], [83, 294]], 5)
    expected = attributions(tiny("tiny-gpt2"), *asked, PLENTY)
    original, failed = getattr(kn_module, name), []

    def fails_above(most: int) -> None:
        def wrapped(*args):
            if len(args[argument]) > most:
                failed.append(len(args[argument]))
                raise torch.OutOfMemoryError("test")
            return original(*args)

        monkeypatch.setattr(kn_module, name, wrapped)

    fails_above(1)
    said: list[str] = []
    found = attributions(tiny("tiny-gpt2"), *asked, Memory(64_000_000, said.append))
    assert failed and len(said) == len(failed)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(ours, theirs) < 1e-5
    fails_above(0)
    with pytest.raises(torch.OutOfMemoryError):
        attributions(tiny("tiny-gpt2"), *asked, Memory(64_000_000))


def test_a_fact_that_fails_spoils_no_other(tiny, facts) -> None:
    """No neuron left, a change of zero: an error in the fact's place."""
    model, good = tiny("tiny-gpt2"), facts[15].view("entity")
    hparams, failing = KnHparams(steps=4, refine=True, p=0.7), replace(RELEASED, kn_without_neuron_scored=False)
    alone, none, beside = kn(model, [good, facts[15].view("relation"), good], hparams, failing)
    assert isinstance(none, EditError) and "no neuron's attribution is above the threshold" in str(none)
    assert isinstance(alone, KnEdit) and alone.neurons == beside.neurons
    # The model's own next token twice: what the edit adds is what it takes away.
    same = replace(good, target=f"{good.foil} {good.foil}")
    corrected = PROTOCOLS["corrected"]
    zero, fine = kn(model, [same, good], KnHparams(steps=4), corrected)
    assert isinstance(zero, EditError) and "norm 0" in str(zero) and isinstance(fine, KnEdit)


def test_an_edit_without_a_neuron_is_the_unedited_model(tiny, facts) -> None:
    """As released it changes nothing, says so, and spoils no other; scores with it are those without an edit."""
    model, good = tiny("tiny-gpt2"), facts[15]
    hparams = KnHparams(steps=4, refine=True, p=0.7)
    alone, none, beside = kn(
        model, [good.view("entity"), good.view("relation"), good.view("entity")], hparams, RELEASED
    )
    assert isinstance(none, KnEdit) and not none.edit.changes and none.neurons == ()
    assert none.told() == {
        "norm": 0.0,
        "neurons": 0,
        "unedited": True,
        "unedited_reason": "no neuron's attribution is above the threshold",
    }
    assert isinstance(alone, KnEdit) and isinstance(beside, KnEdit) and alone.neurons == beside.neurons
    assert "unedited" not in alone.told()
    unedited = score_cases(model, [good, facts[0]])
    edited = score_cases(model, [good, facts[0]], [none.edit, none.edit])
    mixed = score_cases(model, [good, facts[0]], [none.edit, alone.edit])
    for one, other in zip(unedited, edited, strict=True):
        assert one.views["entity"].prompts == other.views["entity"].prompts
    for group in ("reliability", "generality"):
        for one, other in zip(*(s[0].views["entity"].prompts[group] for s in (unedited, mixed)), strict=True):
            assert one.target_new == pytest.approx(other.target_new, abs=1e-5)


def test_what_is_not_finite_is_an_error(tiny, facts) -> None:
    """An embedding that is not a number makes its fact an error, and attributions that are not are one."""
    model, view = tiny("tiny-gptj"), facts[15].view("entity")
    decoder = model.decoder
    broken_VD = decoder.embedding_VD.clone()
    broken_VD[model.tokens.ids("soccer")] = float("nan")
    broken = type(decoder)(
        decoder.family,
        {**decoder.weights, "transformer.wte.weight": broken_VD},
        layers=decoder.layers,
        heads=decoder.heads,
        epsilon=decoder.epsilon,
        positions=decoder.positions,
    )
    failed, fine = kn(replace(model, decoder=broken), [view, replace(view, target="p")], KnHparams(steps=3), RELEASED)
    assert isinstance(failed, EditError) and "norm nan" in str(failed)
    assert isinstance(fine, KnEdit)
    with pytest.raises(EditError, match="the attributions are not finite"):
        neurons_above(torch.tensor([[1.0, float("nan")]]), 0.2)


def test_neurons_are_strictly_above_the_threshold() -> None:
    scores_LM = torch.tensor([[1.0, 0.5, -2.0], [0.75, 0.0, 0.5]])
    assert neurons_above(scores_LM, 0.5) == [(0, 0), (1, 0)]
    assert neurons_above(-scores_LM.abs() - 1, 0.5) == neurons_above(torch.zeros(2, 3), 0.0) == []
    assert refined([[(0, 1), (2, 3)], [(2, 3)]], 0.5) == [(2, 3)]


def test_a_prompt_the_model_cannot_be_asked_with(tiny, facts) -> None:
    view = replace(facts[0].view("entity"), template="{} " + "x " * 200)
    with pytest.raises(PromptError, match="128 positions"):
        kn(tiny("tiny-gpt2"), [view], KnHparams(), RELEASED)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision(dtype: torch.dtype, most: float, tiny, facts) -> None:
    """The change has the weights' dtype, and gradients of a small probability are not lost; in float16 most were."""
    model, half = tiny("tiny-gpt2"), load_folder(REFERENCE / "models" / "tiny-gpt2", dtype=dtype)
    view = facts[15].view("entity")
    scores = [
        attributions(one, view.reliability, [model.tokens.ids(view.foil)], 20, Memory(10**9))[0]
        for one in (model, half)
    ]
    assert relative(scores[1], scores[0]) < most and (scores[1] != 0).double().mean() > 0.99
    (found,), (full,) = (kn(one, [view], KnHparams(steps=4), PROTOCOLS["released"]) for one in (half, model))
    assert {tensor.dtype for tensor in found.edit.tensors(half.decoder).values()} == {dtype}
    assert len(set(found.neurons) & set(full.neurons)) > 0.8 * len(full.neurons)
