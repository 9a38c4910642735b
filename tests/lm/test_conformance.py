"""Every family equals transformers' model: logits, from any layer, changed weights, traces; every method works on it.

Configurations are drawn anew at every run, one setting at a time. What passed here is the table of docs/models.md.
Folders, tokenizers and what is refused: test_family_folders.py.
"""

from collections.abc import Callable
from contextlib import ExitStack
from random import Random
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from family_models import DECODERS, FAMILIES, VOCABULARY, check_table, configuration, module_of
from hypothesis import HealthCheck, Phase, given, settings
from tiny_llama import byte_tokenizer

from artifact.editing.edit import Edit, LowRank, row_edits
from artifact.editing.ft import ft
from artifact.editing.kn import attributions
from artifact.editing.memit import MemitEdit, memit
from artifact.editing.mend import inner_weights, request
from artifact.editing.mend_gradients import inner_gradients
from artifact.editing.methods import METHODS
from artifact.editing.methods.ft import FtHparams
from artifact.editing.methods.memit import MemitHparams
from artifact.editing.methods.mend import MendHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import Moments
from artifact.editing.moments.sums import compute_moments
from artifact.editing.objective import Row, objective
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import RomeEdit, rome
from artifact.facts.fact import Fact, Statement
from artifact.lm.decoder import Decoder
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, from_module
from artifact.lm.tokens import Tokens
from artifact.runs.editors import unfit
from artifact.tracing.corruption import corrupted_tokens, noise
from artifact.tracing.trace import TraceSettings, trace

RELEASED, CORRECTED, MEMORY = PROTOCOLS["released"], PROTOCOLS["corrected"], Memory(10**9)
PASSED: dict[tuple[str, str], str] = {}
"""What each family was found to do, by family and feature: yes or no."""


def all_logits(decoder: Decoder, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
    return decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)), **more))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize("family", FAMILIES)
# Without shrinking, which would take minutes: the models are tiny as they are.
@settings(max_examples=4, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
@torch.no_grad()
def test_a_family_equals_transformers(family: str, data: st.DataObject) -> None:
    def choose(options: Any) -> Any:
        return data.draw(st.sampled_from(list(options)))

    module = module_of(configuration(family, choose))
    decoder = from_module(module)
    ids_BT = torch.randint(4, 40, (2, 11))  # without padding, after which RoBERTa counts positions anew
    expected = module(ids_BT).logits
    assert relative(all_logits(decoder, ids_BT), expected) < 1e-4
    PASSED[family, "logits"] = "yes"
    # From any layer on, any suffix against stored keys.
    run = decoder.run(decoder.words(ids_BT))
    first, left = choose(range(decoder.layers + 1)), choose(range(11)) if decoder.family.causal else 0
    past = [(key[:, :, :left], value[:, :, :left]) for key, value in run.keys] if left else None
    onward = decoder.logits(decoder.blocks(run.states_LBTD[first][:, left:], first, past=past))
    assert relative(onward, expected[:, left:]) < 1e-4
    PASSED[family, "any layer"] = "yes"
    # A change of one weight, in one row alone.
    part = choose([one for one in ("attn_out", "mlp_gate", "mlp_up", "mlp_down") if decoder.family.has(one)])
    name = decoder.family.name(part, decoder.layers - 1)
    layer = module.get_submodule(name)
    inputs, outputs = layer.weight.shape if decoder.family.input_first else layer.weight.shape[::-1]
    edit = Edit({name: LowRank(torch.randn(inputs, 1) / 4, torch.randn(1, outputs) / 4)})
    edited = all_logits(decoder, ids_BT, edits=row_edits([edit, Edit({})], [0, 1]))
    layer.weight += edit.tensors(decoder)[f"{name}.weight"]
    assert relative(edited[0], module(ids_BT).logits[0]) < 1e-4
    assert relative(edited[1], expected[1]) < 1e-4
    PASSED[family, "changed weight"] = "yes"
    # In bfloat16 a small model may round away a fifth of a logit, in transformers too: at most twice as much as there.
    narrow = module.to(torch.bfloat16)
    ours, theirs = all_logits(from_module(narrow), ids_BT).float(), narrow(ids_BT).logits.float()
    exact = narrow.float()(ids_BT).logits
    off, usual = ((one - exact).norm() / exact.norm() for one in (ours, theirs))
    assert off < 2 * usual + 0.03


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(byte_tokenizer(), 128, VOCABULARY)


@pytest.fixture(scope="module", params=DECODERS)
def both(request: pytest.FixtureRequest, tokens: Tokens) -> tuple[LanguageModel, Any]:
    """A model of a family and transformers' module of it."""
    choose = Random(list(FAMILIES).index(request.param)).choice
    module = module_of(configuration(request.param, choose, vocabulary=VOCABULARY, layers=3, positions=128))
    return LanguageModel(request.param, "r", from_module(module), tokens), module


def nll(model: LanguageModel, row: Row, **more: Any) -> float:
    """Mean NLL of a row's target."""
    logits_TV = all_logits(model.decoder, torch.tensor([row.ids]), **more)[0].log_softmax(-1)
    first = len(row.ids) - len(row.target)
    return -float(sum(logits_TV[first + j, token] for j, token in enumerate(row.target))) / row.divisor


def at_lookup(model: LanguageModel, row: Row, edit: Edit, place: tuple[str, int]) -> torch.Tensor:
    """A site's value at a row's lookup position under an edit."""
    seen: list[torch.Tensor] = []

    def read(site: str, layer: int, value_1TX: torch.Tensor) -> None:
        if (site, layer) == place:
            seen.append(value_1TX[0, row.lookup])

    all_logits(model.decoder, torch.tensor([row.ids]), edits=row_edits([edit], [0]), at_site=read)
    return seen[0]


@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn"])
@torch.no_grad()
def test_a_trace_equals_hooks_on_transformers_module(kind: str, both: tuple[LanguageModel, Any]) -> None:
    model, module = both
    family = model.decoder.family
    statement = Statement(case_id=0, prompt="The Needle is in", subject="The Needle")
    found = trace(model, statement, TraceSettings(0.5, kind=kind, window=2, samples=2))
    encoded = model.tokens.encode(statement.prompt)
    ids_BT, span = torch.tensor([encoded.ids] * 3), list(corrupted_tokens(encoded, statement, "entity"))
    # transformers scales Gemma's embeddings within their module, before a hook sees them.
    added = (
        0.5
        * noise(2, len(span), model.decoder.width, 0)
        * getattr(module.get_submodule(family.embedding), "scalar_embed_scale", 1)
    )

    def corrupt(_: Any, __: Any, output_BTD: torch.Tensor) -> torch.Tensor:
        output_BTD[1:, span] = (output_BTD[1:, span].double() + torch.as_tensor(added)).float()
        return output_BTD

    def score(layers: range, token: int) -> float:
        def restore(_: Any, __: Any, output: Any) -> Any:
            output_BTD = output[0] if isinstance(output, tuple) else output
            output_BTD[1:, token] = output_BTD[0, token]
            return output

        def named(layer: int) -> str:
            if kind == "hidden":
                return f"{family.blocks}.{layer}"
            return family.name("mlp_down" if kind == "mlp" else "attn_out", layer).rpartition(".")[0]

        with ExitStack() as stack:
            hooked(stack, module.get_submodule(family.embedding), corrupt)
            for layer in layers:
                hooked(stack, module.get_submodule(named(layer)), restore)
            return float(module(ids_BT).logits[1:, -1].softmax(-1)[:, found.answer_id].mean())

    assert found.answer_id == int(module(ids_BT[:1]).logits[0, -1].argmax())
    width = 0 if kind == "hidden" else 1
    windows = [range(max(0, layer - width), min(3, layer + 1)) for layer in range(3)]
    expected = [[score(window, token) for window in windows] for token in range(len(encoded.ids))]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-6)
    PASSED[model.name, "trace"] = "yes"


def hooked(stack: ExitStack, part: torch.nn.Module, hook: Callable[..., Any]) -> None:
    stack.callback(part.register_forward_hook(hook).remove)


def test_rome_writes_its_value(both: tuple[LanguageModel, Any], facts: dict[int, Fact]) -> None:
    """The edited weight gives it at the subject's key, and with it the model has the optimisation's last loss."""
    model, _ = both
    hparams = RomeHparams(layers=(1,), v_loss_layer=2, v_num_grad_steps=4, mom2_adjustment=False)
    view = facts[0].view("entity")
    (found,) = rome(model, [view], hparams, ["{}"], Moments({}, "none"), RELEASED, MEMORY)
    assert isinstance(found, RomeEdit), found
    row = objective(model, view, ["{}"], ["{}"], RELEASED).rows[0]

    def put(site: str, layer: int, value_1TX: torch.Tensor) -> None:
        if (site, layer) == ("mlp", 1):
            value_1TX[0, row.lookup] = found.target_D

    with torch.no_grad():
        torch.testing.assert_close(at_lookup(model, row, found.edit, ("mlp", 1)), found.target_D, rtol=1e-3, atol=1e-3)
        assert nll(model, row) == pytest.approx(found.history[0][1], rel=1e-4)
        assert nll(model, row, at_site=put) == pytest.approx(found.history[-1][1], rel=1e-4)
    assert found.history[-1][1] != pytest.approx(found.history[0][1], rel=1e-6)
    PASSED[model.name, "ROME"] = "yes"


def test_weights_in_bfloat16_are_edited_by_float32_algebra(tokens: Tokens, facts: dict[int, Fact]) -> None:
    module = module_of(configuration("llama", Random(5).choice, vocabulary=VOCABULARY, layers=3, positions=128))
    decoder = from_module(module.to(torch.bfloat16))
    model = LanguageModel("llama", "r", decoder, tokens)
    hparams = RomeHparams(layers=(1,), v_loss_layer=2, v_num_grad_steps=4)
    moments = compute_moments(model, [[5, 9, 300, 41], [17, 2, 80]] * 20, [1], "texts")
    (found,) = rome(model, [facts[0].view("entity")], hparams, ["{}"], moments, RELEASED, MEMORY)
    assert isinstance(found, RomeEdit), found
    assert (found.delta_D.dtype, found.target_D.dtype) == (torch.float32, torch.float32)
    assert moments.matrix(decoder, 1).dtype == torch.float64
    (change,) = found.edit.tensors(decoder).values()
    assert change.dtype == torch.bfloat16 and bool(change.isfinite().all())


def test_ft_trains_what_is_evaluated(both: tuple[LanguageModel, Any], facts: dict[int, Fact]) -> None:
    """The second pass's loss is that under the edit of the first."""
    model, _ = both
    view = facts[0].view("entity")
    first, second = (
        ft(model, [[view]], FtHparams(layers=(1,), num_steps=steps, lr=1e-3), CORRECTED)[0] for steps in (1, 2)
    )
    assert not isinstance(first, Exception) and not isinstance(second, Exception)
    row = objective(model, view, ["{}"], ["{}"], CORRECTED).rows[0]
    with torch.no_grad():
        assert nll(model, row, edits=row_edits([first.edit], [0])) == pytest.approx(second.losses[1], rel=1e-4)
    assert second.losses[1] < second.losses[0]
    PASSED[model.name, "FT"] = "yes"


def test_kn_attributes_by_the_same_gradients(both: tuple[LanguageModel, Any]) -> None:
    """Integrated gradients at the last token, one layer and point at a time."""
    model, _ = both
    decoder, target, steps = model.decoder, model.tokens.continuation(" Paris"), 3
    ids_BT = torch.tensor([model.tokens.encode("The capital is").ids])
    (found_LM,) = attributions(model, ["The capital is"], [target], steps, MEMORY)
    for layer in range(3):
        seen: list[torch.Tensor] = []

        def put(site: str, at: int, value: torch.Tensor, layer: int = layer, seen: Any = seen) -> Any:
            if (site, at) != ("up", layer):
                return None
            seen.append((value[0, -1].detach() * seen[0]).requires_grad_() if len(seen) == 1 else value[0, -1])
            return torch.cat((value[:, :-1], seen[-1][None, None]), dim=1) if len(seen) == 2 else None

        total = 0.0
        for x in torch.linspace(0, 1, steps):
            seen[:] = [x]
            probability = all_logits(decoder, ids_BT, at_site=put)[0, -1].softmax(-1)[target].mean()
            total = total + torch.autograd.grad(probability, seen[1])[0]
        with torch.no_grad():
            seen[:] = []
            all_logits(decoder, ids_BT, at_site=put)
        assert relative(found_LM[layer], seen[0] * total / steps) < 1e-3
    PASSED[model.name, "KN"] = "yes"


def test_mends_rows_give_transformers_gradients(both: tuple[LanguageModel, Any], facts: dict[int, Fact]) -> None:
    model, module = both
    inner = inner_weights(model.decoder, MendHparams(layers=(1, 2)))
    asked = request(model, facts[0].view("entity"))
    found = inner_gradients(model, [[asked]], inner, None)
    logits_TV = module(torch.tensor([asked.ids])).logits[0].log_softmax(-1)
    picked = [logits_TV[at - 1, asked.ids[at]] for at in range(len(asked.ids) - asked.scored, len(asked.ids))]
    weights = [module.get_submodule(weight.name).weight for weight in inner]
    expected = torch.autograd.grad(-torch.stack(picked).mean(), weights)
    for x_NI, delta_NO, gradient in zip(found.x_W, found.delta_W, expected, strict=True):
        gradient_IO = gradient if model.decoder.family.input_first else gradient.t()
        assert relative(x_NI.t() @ delta_NO, gradient_IO) < 1e-3
    PASSED[model.name, "MEND"] = "yes"


def test_memit_writes_its_value_or_says_why_not(both: tuple[LanguageModel, Any], facts: dict[int, Fact]) -> None:
    model, _ = both
    if refused := unfit(model.kind, METHODS["memit"]):
        assert "norms them before they are added (model.layers.0.post_feedforward_layernorm)" in refused
        PASSED[model.name, "MEMIT"] = "no"
        return
    hparams = MemitHparams(layers=(0, 1), v_loss_layer=2, v_num_grad_steps=3, mom2_update_weight=1e-4)
    moments = compute_moments(model, [[5, 9, 300, 41], [17, 2, 80]] * 20, [0, 1], "texts")
    view = facts[0].view("entity")
    (found,) = memit(model, [[view]], hparams, [["{}"]], moments, RELEASED, MEMORY)
    assert isinstance(found, MemitEdit)
    row = objective(model, view, ["{}"], ["{}"], RELEASED).rows[0]
    with torch.no_grad():
        state_D = at_lookup(model, row, found.edit, ("hidden", 1))
    assert relative(state_D, found.values_ND[0]) < 1e-2
    PASSED[model.name, "MEMIT"] = "yes"


def test_the_table_of_the_document_is_what_passed_here() -> None:
    """Whatever part of this file ran."""
    check_table(PASSED)
