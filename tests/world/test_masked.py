"""The masked twin: its files, what it recalls by transformers' own pass, and its training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerFast

from artifact.lm.load import from_module, load
from artifact.sources.catalogue import MASKED_WORLD
from artifact.world import training
from artifact.world.batches import Sampler
from artifact.world.facts import DEFAULT_SEED, Question, generate
from artifact.world.model import MASKED, initial
from artifact.world.recall import measure
from artifact.world.tokenizer import MASK, build_tokenizer, mask_id

WORLD = generate(DEFAULT_SEED)


@pytest.fixture(scope="module")
def twin() -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    module = BertForMaskedLM.from_pretrained(MASKED_WORLD, attn_implementation="eager").eval()
    return module, AutoTokenizer.from_pretrained(MASKED_WORLD)


def test_committed_files_belong_to_the_generator(twin: Any) -> None:
    module, tokenizer = twin
    assert json.loads((MASKED_WORLD / "tokenizer.json").read_text()) == json.loads(
        build_tokenizer(WORLD, masked=True).to_str()
    )
    assert tokenizer.mask_token_id == mask_id(WORLD) == len(WORLD.vocabulary()) == len(tokenizer) - 1
    assert module.config.num_hidden_layers == MASKED.layers and module.dtype == torch.float32
    assert (MASKED_WORLD / "model.safetensors").stat().st_size < 2_500_000
    weights = initial(len(tokenizer), seed=4, of=MASKED)
    left_out = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    shapes = {name: value.shape for name, value in module.state_dict().items() if name not in left_out}
    assert {name: tensor.shape for name, tensor in weights.items()} == shapes


@torch.no_grad()
def right(twin: Any, questions: list[Question]) -> torch.Tensor:
    """Per question, whether the word is the likeliest at the mask; one prompt after the other, by transformers."""
    module, tokenizer = twin
    found = []
    for question in questions:
        ids = tokenizer(f"{question.prompt} {MASK}.")["input_ids"]
        answer = tokenizer(f" {question.answer}")["input_ids"]
        logits_V = module(torch.tensor([ids])).logits[0, ids.index(mask_id(WORLD))]
        found.append([int(logits_V.argmax())] == answer)
    return torch.tensor(found).double()


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_it_recalls_held_out_templates(twin: Any, perspective: str) -> None:
    assert right(twin, WORLD.held_out(perspective)[::4]).mean() > 0.95
    assert right(twin, WORLD.main(perspective)[::4]).mean() > 0.97


def test_it_says_none_for_unrelated_pairs(twin: Any) -> None:
    assert right(twin, WORLD.edit_pairs()[::4]).mean() > 0.9


def test_measured_figures_are_those_of_the_stored_model() -> None:
    stored = json.loads((MASKED_WORLD / "world.json").read_text())["measured"]
    measured = measure(WORLD, load("world-masked", "cpu").decoder)
    assert list(measured) == list(stored)
    for name, figures in stored.items():
        assert measured[name] == pytest.approx(figures, abs=1.01e-4), name


def test_loss_and_gradients_are_those_of_transformers(twin: Any) -> None:
    module, _ = twin
    settings = training.Training(rows=4, staged=0.5, other_weight=0.0, glued_none=0.0)
    batch = Sampler(WORLD, settings, seed=3, masked=True).batch()
    masked_BT = batch.ids_BT == mask_id(WORLD)
    assert torch.equal(masked_BT, batch.weight_BT > 0) and bool(masked_BT.any())
    assert torch.equal(batch.ids_BT[~masked_BT], batch.said_BT[~masked_BT])
    assert not torch.equal(batch.early.seen_B1TK, batch.late.seen_B1TK)

    def stage(mask_B1TT: torch.Tensor) -> Any:  # transformers takes one mask for all layers
        added_B1TT = torch.zeros(mask_B1TT.shape).masked_fill(~mask_B1TT, -torch.inf)

        def change(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return given[:1], {name: one for name, one in named.items() if name != "attention_mask"} | {
                "attention_mask": added_B1TT
            }

        return change

    hooks = [
        block.register_forward_pre_hook(
            stage(batch.early.seen_B1TK if layer < MASKED.stage else batch.late.seen_B1TK), with_kwargs=True
        )
        for layer, block in enumerate(module.bert.encoder.layer)
    ]
    # Padding sees padding, so that no row of the softmax is empty.
    logits_BTV = module(batch.ids_BT, position_ids=batch.early.position_BT).logits
    for hook in hooks:
        hook.remove()
    used_BT = batch.weight_BT > 0
    expected = F.cross_entropy(logits_BTV[used_BT], batch.said_BT[used_BT])
    names, parameters = zip(*module.named_parameters(), strict=True)
    wanted = dict(zip(names, torch.autograd.grad(expected, parameters), strict=True))
    decoder = from_module(module)
    weights = {name: tensor.requires_grad_() for name, tensor in decoder.weights.items()}
    loss = training.batch_loss(decoder, batch, MASKED)
    found = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        first = int(
            "word_embeddings" in name
        )  # transformers' padding, the end token here, takes no gradient where read
        torch.testing.assert_close(found[name][first:], gradient[first:], rtol=1e-4, atol=1e-5, msg=name)


def test_a_staged_subject_is_hidden_from_both_sides() -> None:
    batch = Sampler(WORLD, training.Training(rows=8, staged=1.0, bare=1.0, prefixed=0.0), seed=3, masked=True).batch()
    tokenizer = build_tokenizer(WORLD)
    parts = {part for subject in WORLD.subjects for part in subject.split()}
    name_BT = torch.tensor([[tokenizer.decode([i]).strip() in parts for i in row] for row in batch.said_BT.tolist()])
    early_BTT, late_BTT = batch.early.seen_B1TK[:, 0], batch.late.seen_B1TK[:, 0]
    outside_BTT = ~name_BT[:, :, None] & name_BT[:, None, :]
    assert not (early_BTT & outside_BTT).any()
    assert {int(count) for count in (late_BTT & outside_BTT).sum(-1)[~name_BT]} == {0, 1}
    left_BTT = torch.ones(64, 64).triu(1).bool() & ~name_BT[:, None, :]
    assert (early_BTT & left_BTT).any()  # tokens on the right are seen


def test_short_training_is_deterministic_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "measure", lambda world, decoder: {})  # a model of twelve steps recalls nothing
    settings = training.Training(rows=4, warm_up=4, other_weight=0.0, glued_none=0.0)
    first, second = (
        training.train(tmp_path / name, steps=12, training=settings, limit=8, masked=True) for name in ("a", "b")
    )
    assert first["losses"] == second["losses"]
    assert first["losses"][-1] < first["losses"][0] - 0.5
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in MASKED_WORLD.iterdir()}
