"""MEND against the golden numbers (1e-5 relative), batches against single runs, the switch, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from artifact.editing import mend_gradients
from artifact.editing.mend import MendEdit, inner_weights, mend, pad_row, request, sentence, step_order
from artifact.editing.mend_gradients import inner_gradients, token_nll
from artifact.editing.mend_history import History
from artifact.editing.mend_objective import Objective, items_of
from artifact.editing.mend_train import MendTraining, initial
from artifact.editing.mend_weights import network_of, read_network, tensors_of
from artifact.editing.methods.mend import MendHparams
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import EditError, PromptError, SettingError
from artifact.evaluation.score import score_cases
from artifact.facts.fact import View
from artifact.lm.device import Memory
from artifact.lm.load import load_folder

REFERENCE = Path(__file__).parent.parent / "reference"
GOLDEN = sorted((REFERENCE / "mend").glob("*_cases*.npz"))
RELEASED, CORRECTED = PROTOCOLS["released"], PROTOCOLS["corrected"]
BY_FILE = replace(RELEASED, mend_training_mode=False)
"""As released but for the normalisation, which is the file's: what the first set of goldens was made with."""
HPARAMS = MendHparams(layers=(3, 4, 5))


@pytest.fixture(scope="module")
def network():
    return read_network(REFERENCE / "mend" / "mend_network.npz")


@pytest.fixture(scope="module")
def networks(model, facts):
    """A network for each family: the golden one, and one with random entries for the other model's shapes."""
    if Path(model.name).name == "tiny-gpt2":
        return HPARAMS, read_network(REFERENCE / "mend" / "mend_network.npz")
    hparams = MendHparams(layers=(2, 3), inner_order=("mlp_up", "mlp_down"))
    items = items_of(model, [facts[1], facts[2]])
    objective = Objective(model, hparams, items, edit_weight=1, keep_weight=1, batch=4)
    tensors = initial(objective, items, MendTraining(rank=8))
    draw = torch.Generator().manual_seed(0)
    for key, tensor in tensors.items():
        if ".mlp." in key:
            tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
    return hparams, network_of(tensors, "random")


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


def same(one: MendEdit, other: MendEdit) -> None:
    assert one.edit.changes.keys() == other.edit.changes.keys()
    for name, change in one.edit.changes.items():
        assert relative(change.dense(), other.edit.changes[name].dense().numpy()) < 1e-4
    assert one.losses[0] == pytest.approx(other.losses[0], rel=1e-4)
    assert one.rank == other.rank


def cases(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", file.stem.split("_cases")[1])]


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
@pytest.mark.parametrize("protocol", [BY_FILE, CORRECTED], ids=lambda protocol: protocol.name)
def test_golden(file: Path, protocol, tiny, facts, network) -> None:
    """All cases of a file are one group: they were written jointly."""
    golden, model = np.load(file), tiny("tiny-gpt2")
    (found,) = mend(model, [[facts[case].view("entity") for case in cases(file)]], HPARAMS, network, protocol)
    assert isinstance(found, MendEdit)
    wanted = "edit_via_mend_main" if protocol.mend_steps_swapped else "edit_via_mend_edit"
    tensors = found.edit.tensors(model.decoder)
    assert len(tensors) == 6
    for name, delta in tensors.items():
        assert relative(delta, golden[f"{name}.{wanted}"]) < 1e-5


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_gradients_and_network(file: Path, tiny, facts, network) -> None:
    """What the network reads and what it gives, row by row: rows without input or gradient are left out."""
    golden, model = np.load(file), tiny("tiny-gpt2")
    inner = inner_weights(model.decoder, HPARAMS)
    names = [f"{weight.name}.weight" for weight in inner]
    assert names == json.loads((REFERENCE / "mend" / "index.json").read_text())["inner_params"]
    requests = [request(model, facts[case].view("entity")) for case in cases(file)]
    for row, one in enumerate(requests):
        assert golden["input_ids"][row][: len(one.ids)].tolist() == list(one.ids)
        assert (golden["labels"][row] != -100).sum() == one.scored
    found = inner_gradients(model, [requests], inner, pad_row(network, model.decoder))
    for w, (name, weight) in enumerate(zip(names, inner, strict=True)):
        x, delta = (
            golden[f"{name}.x"].reshape(-1, weight.shape[0]),
            golden[f"{name}.delta"].reshape(-1, weight.shape[1]),
        )
        kept = (x != 0).any(1) & (delta != 0).any(1)
        assert found.counts_W[w] == [kept.sum()] and 0 < kept.sum() < len(x)
        assert relative(found.x_W[w], x[kept]) < 1e-5
        assert relative(found.delta_W[w], delta[kept]) < 1e-5
        assert weight.mode == golden[f"{name}.mode"]
        x_NI, delta_NO = network.transforms[weight.shape](found.x_W[w], found.delta_W[w], weight.mode)
        assert relative(x_NI, golden[f"{name}.x_tilde"]) < 1e-5
        assert relative(delta_NO, golden[f"{name}.delta_tilde"]) < 1e-5


def test_the_extra_logit_is_part_of_the_loss(tiny, facts, network) -> None:
    """Without the [PAD] row the numbers are others; its logit is the row's product with the final state."""
    model = tiny("tiny-gpt2")
    decoder = model.decoder
    pad_D = pad_row(network, decoder)
    assert pad_D is not None and pad_D.shape == (64,)
    hidden_ND, token_N = torch.randn(5, 64), torch.tensor([1, 2, 3, 4, 5])
    wider = torch.cat((decoder.logits(hidden_ND), (decoder.norm("transformer.ln_f", hidden_ND) @ pad_D)[:, None]), 1)
    expected = torch.nn.functional.cross_entropy(wider, token_N, reduction="none")
    torch.testing.assert_close(token_nll(decoder, hidden_ND, token_N, pad_D), expected)
    views = [[facts[0].view("entity")]]
    (with_row,) = mend(model, views, HPARAMS, network, RELEASED)
    (without,) = mend(model, views, HPARAMS, replace(network, pad_embedding=None), RELEASED)
    assert without.losses[0] < with_row.losses[0]
    mean = replace(network, pad_embedding=None, pad_is_mean=True)
    torch.testing.assert_close(pad_row(mean, decoder), decoder.embedding_VD.mean(0))
    # An output layer of its own has no such row: a logit of zero stands in.
    other = tiny("tiny-gptj").decoder
    assert not pad_row(mean, other).any() and pad_row(replace(mean, pad_is_mean=False), other) is None


def _views() -> st.SearchStrategy[View]:
    words = ["The tower", "is in", "France", "the city of", "a very old", "river", "which", "Île-de-France"]
    phrase = st.lists(st.sampled_from(words), min_size=1, max_size=5).map(" ".join)
    return st.tuples(phrase, phrase, phrase).map(
        lambda t: View("entity", t[0], "{} " + t[1], t[2], "x", None, (f"{t[0]} {t[1]}",), (), ())
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(groups=st.lists(st.lists(_views(), min_size=1, max_size=3), min_size=1, max_size=4), released=st.booleans())
def test_a_batch_gives_the_edits_of_single_runs(model, networks, groups, released) -> None:
    """Prompts and targets of any length, joint groups among them; as released, one after the other."""
    hparams, network = networks
    protocol = RELEASED if released else CORRECTED
    together = mend(model, groups, hparams, network, protocol)
    history = History()
    for group, found in zip(groups, together, strict=True):
        (alone,) = mend(model, [group], hparams, network, protocol, history)
        same(found, alone)


def test_parts_of_a_group_add_up(model, networks, facts, monkeypatch) -> None:
    """A group that takes several passes is still one edit: its loss is the mean over all target tokens."""
    hparams, network = networks
    groups = [[facts[case].view("entity") for case in (0, 10, 7)], [facts[26].view("relation")]]
    whole = mend(model, groups, hparams, network, BY_FILE)
    for name in ("mend", "mend_gradients"):
        monkeypatch.setattr(f"artifact.editing.{name}.BATCH_TOKENS", 12)
    for one, other in zip(whole, mend(model, groups, hparams, network, BY_FILE), strict=True):
        same(one, other)
    rows = [request(model, view) for view in groups[0]]
    single = [mend(model, [[view]], hparams, network, RELEASED)[0].losses[0] for view in groups[0]]
    mean = sum(one.scored * loss for one, loss in zip(rows, single, strict=True)) / sum(one.scored for one in rows)
    assert whole[0].losses[0] == pytest.approx(mean, rel=1e-4)


def test_passes_fit_the_budget(model, networks, facts, monkeypatch) -> None:
    """A budget of a few rows cuts the passes, one row at least, and the edits stay the same."""
    hparams, network = networks
    groups = [[facts[case].view("entity")] for case in (0, 10, 7, 26)]
    whole = mend(model, groups, hparams, network, BY_FILE)
    inner = inner_weights(model.decoder, hparams)
    rows: list[int] = []
    sizes: set[int] = set()
    made = mend_gradients._pass

    def counted(model, requests, *rest):
        rows.append(len(requests))
        tokens = len(requests) * max(len(one.ids) for one in requests)
        scored = sum(one.scored for one in requests)
        if len(requests) == 1:
            sizes.add(mend_gradients._pass_bytes(model.decoder, inner, tokens, scored))
        else:
            assert mend_gradients._pass_bytes(model.decoder, inner, tokens, scored) <= limit
        return made(model, requests, *rest)

    monkeypatch.setattr(mend_gradients, "_pass", counted)
    for fitting, most in ((0, 1), (2.5, 2), (1e6, 4)):
        rows.clear()
        limit = 1 if not fitting else int(fitting * min(sizes))
        for first, other in zip(
            whole, mend(model, groups, hparams, network, BY_FILE, None, Memory(limit)), strict=True
        ):
            same(first, other)
        assert sum(rows) == 4 and max(rows) <= most and (len(rows) == 1) == (most == 4)


def test_an_edit_adds_what_autograd_of_the_weights_says(model, networks, facts) -> None:
    """Without network, x^T delta is the loss's gradient with respect to the weight."""
    hparams, _ = networks
    decoder = model.decoder
    inner = inner_weights(decoder, hparams)
    view = facts[10].view("relation")
    one = request(model, view)
    found = inner_gradients(model, [[one]], inner, None)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in decoder.weights.items()}
    other = type(decoder)(
        decoder.family,
        weights,
        layers=decoder.layers,
        heads=decoder.heads,
        epsilon=decoder.epsilon,
        positions=decoder.positions,
    )
    at = torch.arange(len(one.ids) - one.scored - 1, len(one.ids) - 1)
    hidden_BTD = other.blocks(other.embed(other.words(torch.tensor([one.ids]))))
    loss = token_nll(other, hidden_BTD[0, at], torch.tensor(one.ids)[at + 1]).mean()
    loss.backward()
    for w, weight in enumerate(inner):
        grad = weights[f"{weight.name}.weight"].grad
        grad_IO = grad if decoder.family.input_first else grad.t()
        assert relative(found.x_W[w].t() @ found.delta_W[w], grad_IO.numpy()) < 1e-4
    assert found.loss_G[0] == pytest.approx(loss.item(), rel=1e-5)


def test_step_sizes(tiny, facts, network) -> None:
    """Swapped, each pair of a layer is exchanged where the down-projection comes first, and nothing is otherwise."""
    decoder = tiny("tiny-gpt2").decoder
    inner = inner_weights(decoder, HPARAMS)
    assert step_order(inner, swapped=False) == [0, 1, 2, 3, 4, 5]
    assert step_order(inner, swapped=True) == [1, 0, 3, 2, 5, 4]
    up_first = inner_weights(decoder, MendHparams(layers=(3, 4, 5), inner_order=("mlp_up", "mlp_down")))
    assert step_order(up_first, swapped=True) == [0, 1, 2, 3, 4, 5]
    views = [[facts[7].view("entity")]]
    (once,) = mend(tiny("tiny-gpt2"), views, HPARAMS, network, CORRECTED)
    (twice,) = mend(tiny("tiny-gpt2"), views, MendHparams(layers=(3, 4, 5), lr_scale=2.0), network, CORRECTED)
    assert twice.norm == pytest.approx(2 * once.norm, rel=1e-5)


def test_perspectives_and_weights(model, networks, facts) -> None:
    """The relation perspective feeds its "add" prompt and the relation; no weight of the model is written to."""
    hparams, network = networks
    before = model.weights_hash()
    view = facts[0].view("relation")
    one = request(model, view)
    assert model.tokens.decode(one.ids) == f"{view.template.replace('{}', view.subject)} {view.target}"
    assert one.scored == len(model.tokens.ids(f" {view.target}"))
    found = mend(model, [[facts[0].view("relation")], [facts[0].view("entity")]], hparams, network, RELEASED)
    changed = score_cases(model, [facts[0]] * 2, [one.edit for one in found])
    prompts = [score.views["entity"].prompts["reliability"][0].target_new for score in changed]
    assert prompts[0] != prompts[1]
    assert model.weights_hash() == before


def test_a_failing_group_spoils_no_other(model, networks, facts) -> None:
    hparams, network = networks
    good = facts[0].view("entity")
    long = replace(good, template="{} " + "and so on " * 200)
    found = mend(model, [[], [good], [good, long]], hparams, network, RELEASED)
    assert isinstance(found[0], EditError) and "holds no request" in str(found[0])
    assert isinstance(found[2], EditError) and "128 positions" in str(found[2])
    same(found[1], mend(model, [[good]], hparams, network, RELEASED)[0])
    still = replace(network, edit_lrs=torch.zeros_like(network.edit_lrs))
    (nothing,) = mend(model, [[good]], hparams, still, RELEASED)
    assert isinstance(nothing, EditError) and "norm 0" in str(nothing)
    wild = replace(network, edit_lrs=torch.full_like(network.edit_lrs, float("inf")))
    (infinite,) = mend(model, [[good]], hparams, wild, RELEASED)
    assert isinstance(infinite, EditError)
    with pytest.raises(PromptError, match="the prompt is empty"):
        sentence(model, "", "a")


def test_another_models_network_is_refused(tiny, facts, network) -> None:
    view = [[facts[0].view("entity")]]
    world = load_folder(REFERENCE.parent.parent / "artifact" / "facts" / "data" / "world")
    with pytest.raises(SettingError, match=r"\(64, 256\), \(256, 64\), this model's are \(128, 512\), \(512, 128\)"):
        mend(world, view, HPARAMS, network, RELEASED)
    model = tiny("tiny-gpt2")
    with pytest.raises(SettingError, match="for 3 weights of shape .*, the hyperparameters name 2"):
        mend(model, view, MendHparams(layers=(4, 5)), network, RELEASED)
    with pytest.raises(SettingError, match="2 step sizes for 6 inner weights"):
        mend(model, view, HPARAMS, replace(network, edit_lrs=torch.ones(2)), RELEASED)
    with pytest.raises(SettingError, match=r"pad_embedding is \(3,\), this model's width is 64"):
        mend(model, view, HPARAMS, replace(network, pad_embedding=torch.ones(3)), RELEASED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_an_edit_in_its_type(dtype, tiny, facts, network) -> None:
    model = load_folder(REFERENCE / "models" / "tiny-gpt2", dtype=dtype)
    (found,) = mend(model, [[facts[0].view("entity")]], HPARAMS, network, CORRECTED)
    (full,) = mend(tiny("tiny-gpt2"), [[facts[0].view("entity")]], HPARAMS, network, CORRECTED)
    assert all(change.left_IR.dtype == dtype for change in found.edit.changes.values())
    assert found.norm == pytest.approx(full.norm, rel=0.1)


def test_tensors_go_there_and_back(network) -> None:
    again = network_of(tensors_of(network), "again")
    assert tensors_of(again).keys() == tensors_of(network).keys()
    assert all(torch.equal(tensor, tensors_of(network)[key]) for key, tensor in tensors_of(again.to("cpu")).items())
