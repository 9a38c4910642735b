"""Editors of after the paper on every family: an edit writes what was optimised, in transformers' model as in ours.

Goldens of their numbers: tests/editing/test_modern.py, on GPT-2 and GPT-J.
"""

from random import Random
from typing import Any

import msgspec
import pytest
import torch
from family_models import DECODERS, FAMILIES, VOCABULARY, configuration, module_of
from tiny_llama import byte_tokenizer

from artifact.editing.edit import Edit, Edited, row_edits
from artifact.editing.memit import MemitEdit
from artifact.editing.methods import METHODS
from artifact.editing.objective import objective
from artifact.editing.pmet import PmetEdit
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import RomeEdit
from artifact.facts.datasets.world import world
from artifact.facts.fact import Fact, View
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, from_module
from artifact.lm.tokens import Tokens
from artifact.runs.editors import make_editor, unfit

RELEASED, MEMORY = PROTOCOLS["released"], Memory(10**9)
ASKED: dict[str, dict[str, Any]] = {
    "rrome": {},
    "rets": {},
    "emmet": {"layers": (1,), "mom2_update_weight": 1e-4},
    "alphaedit": {"layers": (0, 1), "nullspace_threshold": 1e6, "l2": 1e-3},
    "pmet": {"layers": (1,), "modules": ("attn", "mlp"), "mom2_update_weight": 1e-4},
}
"""By method, what it takes here besides its hyperparameters for a model of three layers."""


@pytest.fixture(scope="module", params=DECODERS)
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    """A model of a family and transformers' module of it."""
    choose = Random(100 + list(FAMILIES).index(request.param)).choice
    module = module_of(configuration(request.param, choose, vocabulary=VOCABULARY, layers=3, positions=128))
    tokens = Tokens(byte_tokenizer(), 128, VOCABULARY)
    return LanguageModel(request.param, "r", from_module(module), tokens), module


def seen_at(model: LanguageModel, ids: Any, edit: Edit, place: tuple[str, int], token: int) -> torch.Tensor:
    """A site's value at a token under an edit."""
    seen: list[torch.Tensor] = []

    def read(site: str, layer: int, value_1TX: torch.Tensor) -> None:
        if (site, layer) == place:
            seen.append(value_1TX[0, token])

    decoder = model.decoder
    embedded_BTD = decoder.embed(decoder.words(torch.tensor([ids])))
    decoder.blocks(embedded_BTD, edits=row_edits([edit], [0]), at_site=read)
    return seen[0]


@pytest.mark.parametrize("method", ASKED)
def test_an_edit_writes_what_was_optimised_in_transformers_model_as_in_ours(
    method: str, both: tuple[LanguageModel, Any], facts: dict[int, Fact]
) -> None:
    model, module = both
    if refused := unfit(model.kind, METHODS[method]):
        assert "norms them before they are added" in refused
        return
    hparams = msgspec.structs.replace(METHODS[method].scaled(3), v_num_grad_steps=4, **ASKED[method])
    view = facts[0].view("entity")
    prefixes: Any = {"list": ["{}"], "groups": [["{}"]]}[METHODS[method].prefixes or "list"]
    others = world() if METHODS[method].facts else None
    editor = make_editor(
        model, method, PROTOCOLS["corrected"], MEMORY, hparams=hparams, prefixes=prefixes, facts=others
    )
    (found,) = editor.edits([[view]], None)
    assert isinstance(found, Edited) and found.norm > 0
    with torch.no_grad():
        written_as_optimised(method, model, found, view, hparams.layers[-1])
        the_same_in_transformers(model, module, found, view)


def written_as_optimised(method: str, model: LanguageModel, found: Edited, view: View, layer: int) -> None:
    row = objective(model, view, ["{}"], ["{}"], RELEASED).rows[0]
    if isinstance(found, RomeEdit):
        at = len(row.ids) - len(row.target) if method == "rets" else row.lookup  # RETS's key is the prompt's last token
        value_D = seen_at(model, row.ids, found.edit, ("mlp", layer), at)
        torch.testing.assert_close(value_D, found.target_D, rtol=1e-3, atol=1e-3)
    elif isinstance(found, MemitEdit):
        state_D = seen_at(model, row.ids, found.edit, ("hidden", layer), row.lookup)
        assert (state_D - found.values_ND[0]).norm() < 0.02 * found.values_ND[0].norm()
    else:
        assert isinstance(found, PmetEdit)  # the MLP's key is another one once the attention's output has changed
        output_D = seen_at(model, row.ids, found.edit, ("attn", layer), row.lookup)
        assert (output_D - found.values_ND["attn"][0]).norm() < 0.02 * found.values_ND["attn"][0].norm()


def the_same_in_transformers(model: LanguageModel, module: Any, found: Edited, view: View) -> None:
    row = objective(model, view, ["{}"], ["{}"], RELEASED).rows[0]
    decoder, ids_BT = model.decoder, torch.tensor([row.ids])
    hidden_BTD = decoder.blocks(decoder.embed(decoder.words(ids_BT)), edits=row_edits([found.edit], [0]))
    edited_BTV, plain_BTV = decoder.logits(hidden_BTD), module(ids_BT).logits
    parameters, kept = dict(module.named_parameters()), {}
    for name, change in found.edit.tensors(decoder).items():
        kept[name] = parameters[name].clone()
        parameters[name] += change
    changed_BTV = module(ids_BT).logits
    for name, value in kept.items():
        parameters[name].copy_(value)
    torch.testing.assert_close(edited_BTV, changed_BTV, rtol=1e-3, atol=1e-3)
    assert (changed_BTV - plain_BTV).abs().max() > 1e-3
