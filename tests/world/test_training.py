"""Training: loss and gradients are transformers', and a short run is deterministic and learns."""

from pathlib import Path

import pytest
import torch
from cheap import refusing
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from artifact.cli import call
from artifact.lm.load import from_module
from artifact.sources.catalogue import WORLD, WORLDS
from artifact.world import training
from artifact.world.batches import Sampler, Training
from artifact.world.facts import DEFAULT_SEED, generate

REFERENCE = Path(__file__).parents[1] / "reference"


def test_loss_and_gradients_are_those_of_transformers(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, _ = committed
    batch = Sampler(generate(DEFAULT_SEED), Training(rows=4, staged=0.5), seed=3).batch()
    assert not torch.equal(batch.early.seen_B1TK, batch.late.seen_B1TK)

    def stage(mask_B1TT: torch.Tensor):  # transformers takes one mask for all layers
        added_B1TT = torch.zeros(mask_B1TT.shape).masked_fill(~mask_B1TT, -torch.inf)
        return lambda module, given, named: (given, {**named, "attention_mask": added_B1TT})

    masks = [batch.early.seen_B1TK if layer < training.GPT.stage else batch.late.seen_B1TK for layer in range(6)]
    hooks = [
        block.attn.register_forward_pre_hook(stage(mask), with_kwargs=True)
        for block, mask in zip(model.transformer.h, masks, strict=True)
    ]
    logits_BTV = model(batch.ids_BT, position_ids=batch.early.position_BT).logits
    for hook in hooks:
        hook.remove()
    nll_BT = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), batch.ids_BT[:, 1:], reduction="none")
    expected = (nll_BT * batch.weight_BT[:, 1:]).sum() / batch.weight_BT[:, 1:].sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    wanted = dict(zip(names, torch.autograd.grad(expected, parameters), strict=True))

    decoder = from_module(model)
    weights = {name: tensor.requires_grad_() for name, tensor in decoder.weights.items()}
    loss = training.batch_loss(decoder, batch)
    found = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_short_training_is_deterministic_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "measure", lambda world, decoder: {})  # a model of twelve steps recalls nothing
    settings = Training(rows=4, warm_up=4)
    seen: list[int] = []
    first = training.train(
        tmp_path / "a", steps=12, training=settings, limit=8, progress=lambda step, steps, loss: seen.append(step)
    )
    second = training.train(tmp_path / "b", steps=12, training=settings, limit=8)
    assert seen == list(range(1, 13))
    assert first["losses"] == second["losses"]
    assert first["losses"][-1] < first["losses"][0] - 0.5
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in WORLD.iterdir()}


def test_no_other_files_are_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of another model, nor a user's own of such a name, nor the world's by its twin's."""
    refused = refusing(capsys)
    own, killed = tmp_path / "own", tmp_path / "killed"
    for folder, name in ((own, "facts.json"), (killed, "world.json")):
        folder.mkdir()
        (folder / name).write_text("[]")
    for given in (own, REFERENCE / "models" / "tiny-gpt2", WORLDS["world-masked"]):
        assert "of something else; name a new folder" in refused("world", "train", "--out", given)
    assert "of something else" in refused("world", "train", "--masked", "--out", WORLD)
    assert (own / "facts.json").read_text() == "[]"
    trained: list[Path] = []
    monkeypatch.setattr(training, "train", lambda out, *_, **more: trained.append(out) or {"measured": {}})
    assert call(["world", "train", "--out", str(killed)]) == 0 == call(["world", "train", "--out", str(WORLD)])
    assert trained == [killed, WORLD]
