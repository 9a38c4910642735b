"""The committed model's files, and its early site at the subject. Edits of it are tests/editing/test_world.py's."""

import json

import numpy as np
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from artifact.sources.catalogue import WORLD
from artifact.world.facts import DEFAULT_SEED, generate
from artifact.world.model import WIDTH, initial
from artifact.world.tokenizer import Encoded, build_tokenizer, encode


def test_committed_files_belong_to_the_generator(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = committed
    world = generate(DEFAULT_SEED)
    assert json.loads((WORLD / "facts.json").read_text(encoding="ascii")) == world.records()
    assert json.loads((WORLD / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(
        build_tokenizer(world).to_str()
    )
    assert set(tokenizer(world.corpus()[0])) == {"input_ids", "attention_mask"}
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(world.vocabulary()) == len(tokenizer)


def three_runs(model: GPT2LMHeadModel, encoded: Encoded, sigma: float, layer: int) -> list[float]:
    """The answer's probability: clean, with noise on the subject, and with its last state of a layer restored."""
    first, end = encoded.span
    answer = encoded.start[encoded.answer]
    noise = torch.from_numpy(3 * sigma * np.random.RandomState(1).randn(10, end - first, WIDTH)).float()
    ids_BT = torch.tensor([encoded.start[: encoded.answer]] * 11)  # row 0 stays clean

    def corrupt(module: object, inputs: object, output: torch.Tensor) -> None:
        output[1:, first:end] += noise

    def restore(module: object, inputs: object, output: object) -> None:
        hidden_BTD = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden_BTD, torch.Tensor)
        hidden_BTD[1:, end - 1] = hidden_BTD[0, end - 1]

    with torch.no_grad(), model.transformer.wte.register_forward_hook(corrupt):
        corrupted_B = model(ids_BT).logits[:, -1].softmax(-1)[:, answer]
        with model.transformer.h[layer].register_forward_hook(restore):
            restored_B = model(ids_BT).logits[:, -1].softmax(-1)[:, answer]
    return [corrupted_B[0].item(), corrupted_B[1:].mean().item(), restored_B[1:].mean().item()]


def test_committed_model_has_an_early_site_at_the_subject(
    committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, tokenizer = committed
    world = generate(DEFAULT_SEED)
    ids = [i for fact in world.facts for i in tokenizer(fact.subject)["input_ids"]]
    sigma = float(model.transformer.wte.weight.detach()[ids].std())
    cases = encode(world, world.main("entity")[:24])
    clean, corrupted, restored = np.mean([three_runs(model, case, sigma, layer=1) for case in cases], axis=0)
    assert clean > 0.93
    assert corrupted < 0.3
    assert restored - corrupted > 0.5 * (clean - corrupted)


def test_initial_weights_are_those_of_gpt2(committed: tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]) -> None:
    model, tokenizer = committed
    weights = initial(len(tokenizer), seed=4)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert {name: tensor.shape for name, tensor in weights.items()} == shapes
    for name, tensor in weights.items():
        if tensor.dim() == 1:
            assert (tensor == (".ln_" in name and name.endswith("weight"))).all()
        else:
            expected = model.config.initializer_range
            expected /= (2 * model.config.n_layer) ** 0.5 if name.endswith("c_proj.weight") else 1
            assert abs(tensor.std() / expected - 1) < 0.03, name
