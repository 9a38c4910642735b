"""Greedy continuations are those of transformers' model with the change in its weights, token by token."""

from pathlib import Path

import pytest
import tiny_llama
import torch
from transformers import AutoModelForCausalLM

from artifact.editing.edit import Dense, Edit
from artifact.errors import EditError, PromptError
from artifact.evaluation.generate import generate
from artifact.lm.load import LanguageModel, load_folder
from artifact.sources.catalogue import WORLD

PROMPT = "The capital of France is"
WORLDS = "The birthplace of Zikim Dinuv is"


@pytest.fixture(scope="module", params=["tiny-gpt2", "tiny-gptj", "llama", "world"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reference: Path):
    if request.param == "llama":
        return load_folder(tiny_llama.write_folder(tmp_path_factory.mktemp("llama"), tiny_llama.llama_module()))
    return load_folder(WORLD if request.param == "world" else reference / "models" / request.param)


def change(model: LanguageModel, size: float) -> Edit:
    torch.manual_seed(0)
    name = model.decoder.family.name("mlp_down", 1)
    weight = model.decoder.weights[f"{name}.weight"]
    weight = weight if model.decoder.family.input_first else weight.t()
    return Edit({name: Dense(size * torch.randn_like(weight))})


@pytest.mark.parametrize("edited", [False, True])
def test_it_is_what_transformers_generates(any_model, edited) -> None:
    model = any_model
    prompt = WORLDS if model.folder == WORLD else PROMPT
    edit = change(model, 0.3) if edited else None
    hashed = model.weights_hash()
    found = generate(model, prompt, 24, edit)
    assert model.weights_hash() == hashed
    module = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, delta in (edit.tensors(model.decoder) if edit else {}).items():
            module.get_parameter(name).add_(delta)
        ids = list(model.tokens.encode(prompt).ids)
        for one in found.ids:
            assert one == int(module(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(one)
        if found.ended:
            assert int(module(torch.tensor([ids])).logits[0, -1].argmax()) == model.tokens.end_id
    assert len(found.ids) == 24 or found.ended
    assert prompt + found.text == model.tokens.decode(ids)


def test_the_end_token_ends_it(monkeypatch) -> None:
    model = load_folder(WORLD)
    whole = generate(model, WORLDS, 6)
    monkeypatch.setattr(model.tokens, "end_id", whole.ids[2])
    found = generate(model, WORLDS, 6)
    assert not whole.ended and found.ended and found.ids == whole.ids[:2] and whole.text.startswith(found.text)


def test_what_cannot_be_asked_is_said(tiny) -> None:
    model = tiny("tiny-gpt2")
    room = model.tokens.limit - len(model.tokens.encode(PROMPT).ids) + 1
    assert len(generate(model, PROMPT, room).ids) == room or generate(model, PROMPT, room).ended
    with pytest.raises(PromptError, match="exceeds the model's .* positions"):
        generate(model, PROMPT, room + 1)
    with pytest.raises(EditError, match="are not finite; give a smaller edit"):
        generate(model, PROMPT, 4, change(model, 1e38))
