"""Tracing and every editing method on a tiny Llama, each against transformers' own module with hooks or gradients."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_llama import llama_module, write_folder
from transformers import LlamaForCausalLM

from artifact.cli import call
from artifact.editing.edit import row_edits
from artifact.editing.edit_file import read_edit
from artifact.editing.editor import Editor
from artifact.editing.ft import ft
from artifact.editing.kn import attributions, kn
from artifact.editing.mend import inner_weights, mend, request
from artifact.editing.mend_gradients import inner_gradients
from artifact.editing.mend_objective import Objective, items_of
from artifact.editing.mend_train import MendTraining, initial
from artifact.editing.mend_weights import network_of
from artifact.editing.methods import METHODS
from artifact.editing.methods.ft import FtHparams
from artifact.editing.methods.kn import KnHparams
from artifact.editing.methods.mend import MendHparams
from artifact.editing.moments.sums import compute_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.facts.fact import Fact, Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, load_folder
from artifact.tracing.corruption import corrupted_tokens, noise
from artifact.tracing.trace import TraceSettings, trace

RELEASED, CORRECTED = PROTOCOLS["released"], PROTOCOLS["corrected"]
RECORDS = json.loads((Path(__file__).parent.parent / "reference" / "facts.json").read_text())
FORMS = {"plain": {"tie_word_embeddings": True}, "biases": {"mlp_bias": True, "attention_bias": True}}


@pytest.fixture(scope="module", params=FORMS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = llama_module(**FORMS[request.param])
    return write_folder(tmp_path_factory.mktemp("llama") / "model", module, begins=request.param == "biases")


@pytest.fixture(scope="module")
def llama(folder: Path) -> LanguageModel:
    return load_folder(folder)


@pytest.fixture(scope="module")
def module(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def hooked(stack: ExitStack, part: torch.nn.Module, hook: Callable[..., Any]) -> None:
    stack.callback(part.register_forward_hook(hook).remove)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
@torch.no_grad()
def test_a_trace_equals_one_cell_at_a_time(kind: str, llama: LanguageModel, module: LlamaForCausalLM) -> None:
    statement = Statement(case_id=0, prompt="The Space Needle is in the city of", subject="The Space Needle")
    chosen = TraceSettings(0.8, kind=kind, window=2, samples=3)
    found = trace(llama, statement, chosen)
    encoded = llama.tokens.encode(statement.prompt)
    ids_BT = torch.tensor([encoded.ids] * 4)
    span = list(corrupted_tokens(encoded, statement, "entity"))
    added = 0.8 * torch.from_numpy(noise(3, len(span), 32))

    def corrupt(_: Any, __: Any, output_BTD: torch.Tensor) -> torch.Tensor:
        output_BTD[1:, span] = (output_BTD[1:, span].double() + added).float()
        return output_BTD

    def restored(layer: int) -> list[torch.nn.Module]:
        blocks = module.model.layers
        if kind == "hidden":
            return [blocks[layer]]
        window = range(max(0, layer - 1), min(3, layer + 1))
        return [blocks[at].mlp if kind == "mlp" else blocks[at].self_attn for at in window]

    def score(parts: list[torch.nn.Module], token: int) -> float:
        def restore(_: Any, __: Any, output: Any) -> Any:
            output_BTD = output[0] if isinstance(output, tuple) else output
            output_BTD[1:, token] = output_BTD[0, token]
            return output

        with ExitStack() as stack:
            hooked(stack, module.model.embed_tokens, corrupt)
            for part in parts:
                hooked(stack, part, restore)
            return float(module(ids_BT).logits[1:, -1].softmax(-1)[:, found.answer_id].mean())

    assert found.answer_id == int(module(ids_BT[:1]).logits[0, -1].argmax())
    assert found.corrupted == pytest.approx(score([], 0), rel=1e-4)
    expected = [[score(restored(layer), token) for layer in range(3)] for token in range(len(encoded.ids))]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    assert np.ptp(found.scores) > 1e-4


@torch.no_grad()
def test_moments_are_of_the_down_projections_inputs(llama: LanguageModel, module: LlamaForCausalLM) -> None:
    texts = [[5, 9, 300, 41], [17, 2, 80]]
    seen: list[torch.Tensor] = []
    with ExitStack() as stack:
        hooked(stack, module.model.layers[1].mlp.down_proj, lambda _, given, __: seen.append(given[0][0].double()))
        for text in texts:
            module(torch.tensor([text]))
    keys_NM = torch.cat(seen)
    found = compute_moments(llama, texts, [1], "texts").matrix(llama.decoder, 1)
    assert relative(found, keys_NM.t() @ keys_NM / len(keys_NM)) < 1e-5


@pytest.mark.parametrize("method", ["rome", "memit", "ft", "kn"])
def test_an_edit_as_typed_changes_transformers_logits(method: str, folder: Path, tmp_path: Path) -> None:
    """Prefixes and moments drawn from the model; the file's change, added to the module, gives the decoder's logits."""
    asked, out = tmp_path / "request.json", tmp_path / "edit.safetensors"
    asked.write_text(json.dumps(RECORDS[0]))
    command = ["edit", "--model", folder, "--method", method, "--request", asked, "--out", out]
    assert call([str(word) for word in command]) == 0
    llama, module = load_folder(folder), LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids_BT = torch.tensor([llama.tokens.encode("The capital of France is").ids])
    with torch.no_grad():
        before = module(ids_BT).logits
        for name, delta in load_file(out).items():
            assert name.startswith("model.layers.") and ".mlp.down_proj." in name
            module.get_parameter(name).add_(delta)
        after = module(ids_BT).logits
        edits = row_edits([read_edit(out, llama).edit], [0])
        decoder = llama.decoder
        found = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)), edits=edits))
    assert relative(found, after) < 1e-5
    assert relative(found - before, after - before) < 1e-2  # MEMIT's second moments leave a small change here


def test_rome_writes_its_value(llama: LanguageModel, facts: dict[int, Fact]) -> None:
    """The edited down-projection gives v* for the subject's key at the bare prompt, and the target's NLL falls."""
    from artifact.editing.rome import RomeEdit
    from artifact.runs.editors import make_editor

    (found,) = make_editor(llama, "rome", RELEASED, Memory(10**9)).edits([[facts[0].view("entity")]])
    assert isinstance(found, RomeEdit)
    assert found.history[-1][1] < found.history[0][1]
    encoded = llama.tokens.encode("The capital of France is")
    at, decoder, layer = encoded.find("France")[-1], llama.decoder, METHODS["rome"].hparams_for("mine", 3).layer
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        word_BTD = decoder.words(torch.tensor([encoded.ids]))
        edits = row_edits([found.edit], [0])
        decoder.blocks(
            decoder.embed(word_BTD),
            edits=edits,
            at_site=lambda site, of, value: seen.update({site: value[0, at]}) if of == layer else None,
        )
    torch.testing.assert_close(seen["mlp"], found.target_D, rtol=1e-3, atol=1e-4)


def test_ft_trains_a_bias_only_where_there_is_one(llama: LanguageModel, folder: Path, facts: dict[int, Fact]) -> None:
    hparams = FtHparams(layers=(1,), num_steps=4, lr=1e-2)
    has_bias = "model.layers.1.mlp.down_proj.bias" in llama.decoder.weights
    for protocol in (RELEASED, CORRECTED):
        (found,) = ft(llama, [[facts[0].view("entity")]], hparams, protocol)
        assert not isinstance(found, Exception)
        assert found.losses[-1] < found.losses[0]
        parts = {name.rpartition(".")[2] for name in found.edit.tensors(llama.decoder)}
        assert parts == ({"weight", "bias"} if has_bias and protocol.ft_bias else {"weight"})


def test_kn_attributes_the_gate(llama: LanguageModel, module: LlamaForCausalLM, facts: dict[int, Fact]) -> None:
    """Integrated gradients over the gate projection's output at the last token, by hooks on transformers' module."""
    prompt, steps = "The capital of France is", 5
    encoded, target = llama.tokens.encode(prompt), llama.tokens.ids(" Paris")
    ids_BT = torch.tensor([encoded.ids])
    (found_LM,) = attributions(llama, [prompt], [target], steps, Memory(10**9))
    for layer in range(3):
        gate = module.model.layers[layer].mlp.gate_proj
        seen: list[torch.Tensor] = []
        with ExitStack() as stack, torch.no_grad():
            hooked(stack, gate, lambda _, __, output, seen=seen: seen.append(output[0, -1].clone()))
            module(ids_BT)
        total_M = torch.zeros(48)
        for x in torch.linspace(0, 1, steps):
            point_M = (x * seen[0]).requires_grad_()

            def put(_: Any, __: Any, output: torch.Tensor, point_M: torch.Tensor = point_M) -> torch.Tensor:
                return torch.cat((output[:, :-1], point_M[None, None]), dim=1)

            with ExitStack() as stack:
                hooked(stack, gate, put)
                probability = module(ids_BT).logits[0, -1].softmax(-1)[target].mean()
            total_M += torch.autograd.grad(probability, point_M)[0]
        assert relative(found_LM[layer], seen[0] * total_M / steps) < 1e-4
    (edited,) = kn(llama, [facts[0].view("entity")], KnHparams(), RELEASED)
    assert edited.neurons and all(name.endswith("down_proj") for name in edited.edit.changes)


def test_mend_reads_up_and_down_projection(
    llama: LanguageModel, module: LlamaForCausalLM, facts: dict[int, Fact]
) -> None:
    """x^T delta, summed over a request's tokens, is transformers' weight gradient; a network gives an edit."""
    hparams = MendHparams(layers=(1, 2))
    inner = inner_weights(llama.decoder, hparams)
    names = [f"model.layers.{layer}.mlp.{part}_proj" for layer in (1, 2) for part in ("down", "up")]
    assert [weight.name for weight in inner] == names
    asked = request(llama, facts[0].view("entity"))
    found = inner_gradients(llama, [[asked]], inner, None)
    logits_TV = module(torch.tensor([asked.ids])).logits[0].log_softmax(-1)
    picked = [logits_TV[at - 1, asked.ids[at]] for at in range(len(asked.ids) - asked.scored, len(asked.ids))]
    loss = -torch.stack(picked).mean()
    expected = torch.autograd.grad(loss, [module.get_submodule(name).weight for name in names])
    assert found.loss_G[0] == pytest.approx(loss.item(), rel=1e-4)
    for x_NI, delta_NO, gradient_OI in zip(found.x_W, found.delta_W, expected, strict=True):
        assert relative(delta_NO.t() @ x_NI, gradient_OI) < 1e-4

    items = items_of(llama, [facts[0], facts[1]])
    objective = Objective(llama, hparams, items, edit_weight=1, keep_weight=1, batch=4)
    network = network_of(initial(objective, items, MendTraining(rank=4)), "untrained")
    (edited,) = mend(llama, [[facts[0].view("entity")]], hparams, network, RELEASED)
    assert not isinstance(edited, Exception)
    assert edited.edit.tensors(llama.decoder).keys() == {f"{name}.weight" for name in names}


def test_settings_say_that_they_are_no_paper_values(llama: LanguageModel) -> None:
    hparams = METHODS["rome"].hparams_for(llama.name, 30)
    assert (hparams.layers, hparams.v_loss_layer) == ((11,), 29)
    assert METHODS["memit"].hparams_for(llama.name, 30).layers == (9, 10, 11)
    resolved = METHODS["ft"].hparams_for(llama.name, 3)
    editor = Editor(llama, METHODS["ft"], resolved, RELEASED, Memory(10**9))
    words = "GPT-2 XL's at the same fraction of the depth, no paper values"
    assert editor.described()["hparams_source"] == words
    other = Editor(llama, METHODS["ft"], FtHparams(layers=(1,)), RELEASED, Memory(10**9))
    assert other.described()["hparams_source"] == f"{words}; some given instead"
