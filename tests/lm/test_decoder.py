"""The decoder equals transformers, from any layer, on any suffix, in every dtype, whatever the padding."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

from artifact.editing.edit import Edit, LowRank, row_edits
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder
from artifact.lm.load import LanguageModel, from_module, load_folder
from artifact.sources.catalogue import WORLD

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
DTYPES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def random_module(family: str, seed: int = 0, layers: int = 3, heads: int = 2, width: int = 16) -> torch.nn.Module:
    torch.manual_seed(seed)
    shared = {"vocab_size": 50, "n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": 32}
    shared |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    module = (
        GPT2LMHeadModel(GPT2Config(**shared))
        if family == "gpt2"
        else GPTJForCausalLM(GPTJConfig(**shared, rotary_dim=4, tie_word_embeddings=False))
    )
    for name, parameter in module.named_parameters():
        if "ln_" in name or "bias" in name:  # away from ones and zeros, so that a swapped name shows
            parameter.data += 0.2 * torch.randn_like(parameter)
    return module.eval()


def all_logits(decoder: Decoder, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
    return decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)), **more))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.float()
    return float((found.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_random_models_equal_transformers(family: str, dtype: torch.dtype, device: str) -> None:
    module = random_module(family).to(device, dtype)
    ids_BT = torch.randint(0, 50, (3, 11), device=device)
    with torch.no_grad():
        found = all_logits(from_module(module, device), ids_BT)
        assert relative(found, module(ids_BT).logits) < DTYPES[dtype]


@pytest.mark.parametrize("folder", ["tiny-gpt2", "tiny-gptj", "world"])
def test_trained_models_equal_transformers(folder, reference) -> None:
    path = WORLD if folder == "world" else reference / "models" / folder
    loaded = load_folder(path)
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids_BT = torch.randint(0, loaded.decoder.embedding_VD.shape[0], (4, 17))
    with torch.no_grad():
        assert relative(all_logits(loaded.decoder, ids_BT), module(ids_BT).logits) < 1e-4


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(["gpt2", "gptj"]),
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.sampled_from([16, 32])),
    tokens=st.integers(1, 12),
    data=st.data(),
)
def test_any_layer_any_suffix(family, seed, shape, tokens, data) -> None:
    """Starting at any layer on any suffix against stored keys gives what the whole pass gives."""
    layers, heads, width = shape
    decoder = from_module(random_module(family, seed, layers, heads, width))
    ids_BT = torch.randint(0, 50, (2, tokens))
    first = data.draw(st.integers(0, layers))
    left = data.draw(st.integers(0, tokens - 1))
    with torch.no_grad():
        run = decoder.run(decoder.words(ids_BT))
        past = [(key[:, :, :left], value[:, :, :left]) for key, value in run.keys] if left else None
        found = decoder.blocks(run.states_LBTD[first][:, left:], first, past=past)
    torch.testing.assert_close(found, run.states_LBTD[-1][:, left:], rtol=1e-4, atol=1e-4)


def test_right_padding_changes_no_number(model: LanguageModel) -> None:
    rows_ids = [[5, 9, 13], [7, 2, 44, 31, 8, 90, 11]]
    decoder = model.decoder
    with torch.no_grad():
        together = all_logits(decoder, model.tokens.pad(rows_ids, decoder.device))
        for row, ids in enumerate(rows_ids):
            alone = all_logits(decoder, torch.tensor([ids]))
            torch.testing.assert_close(together[row, : len(ids)], alone[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_packed_rows_equal_rows_alone(model: LanguageModel) -> None:
    """Whole, from stored keys on, and with the last block at some tokens only; a row may have nothing stored."""
    decoder, texts, left = model.decoder, [[7, 9, 50, 3, 80], [8, 33, 61], [5, 2]], [2, 0, 1]
    runs = [decoder.run(decoder.words(torch.tensor([text]))) for text in texts]
    expected = torch.cat([run.states_LBTD[-1] for run in runs], dim=1)
    hidden, aligned = decoder.packed(texts)
    assert relative(decoder.blocks(hidden, aligned=aligned), expected) < 1e-5
    read = torch.tensor([9, 0, 4])
    assert relative(decoder.blocks(hidden, aligned=aligned, read_N=read), expected[:, read]) < 1e-5
    assert torch.equal(decoder.blocks(hidden, decoder.layers, aligned=aligned, read_N=read), hidden[:, read])

    tails = [len(text) - first for text, first in zip(texts, left, strict=True)]
    onward = torch.cat([run.states_LBTD[1][:, first:] for run, first in zip(runs, left, strict=True)], dim=1)
    past = {}
    for layer in range(1, decoder.layers):
        pairs = [run.keys[layer] for run in runs]
        padded = [
            torch.cat(
                [F.pad(pair[part][:, :, :first], (0, 0, 0, 2 - first)) for pair, first in zip(pairs, left, strict=True)]
            )
            for part in (0, 1)
        ]
        past[layer] = (padded[0], padded[1])
    found = decoder.blocks(onward, 1, past=past, aligned=Aligned.packed(tails, decoder.device, left))
    expected = torch.cat([run.states_LBTD[-1][:, first:] for run, first in zip(runs, left, strict=True)], dim=1)
    assert relative(found, expected) < 1e-5


def test_each_row_carries_its_own_edit(model: LanguageModel) -> None:
    """Row edits equal a model whose weight was changed, row by row; and the model's weights stay as they were."""
    decoder = model.decoder
    name = decoder.family.name("mlp_down", 1)
    weight = decoder.weights[f"{name}.weight"]
    inputs, outputs = weight.shape if decoder.family.input_first else weight.shape[::-1]
    edits = [Edit({name: LowRank(torch.randn(inputs, 1) / 8, torch.randn(1, outputs) / 8)}) for _ in range(2)]
    ids_BT = torch.tensor([[5, 9, 13, 4]] * 3)
    before = model.weights_hash()
    with torch.no_grad():
        found = all_logits(decoder, ids_BT, edits=row_edits(edits, [0, 1, 0]))
        for row, edit in enumerate([edits[0], edits[1], edits[0]]):
            changed = dict(decoder.weights)
            changed[f"{name}.weight"] = weight + edit.tensors(decoder)[f"{name}.weight"]
            other = Decoder(
                decoder.family,
                changed,
                layers=decoder.layers,
                heads=decoder.heads,
                epsilon=decoder.epsilon,
                positions=128,
            )
            torch.testing.assert_close(found[row], all_logits(other, ids_BT[:1])[0], rtol=1e-4, atol=1e-4)
    assert model.weights_hash() == before
    assert not torch.allclose(found[0], found[1])


def test_sites_are_seen_and_replaced(model: LanguageModel) -> None:
    """Every site is visited once a layer, in order, and what a visitor returns takes the value's place."""
    decoder = model.decoder
    seen = []
    word_BTD = decoder.words(torch.tensor([[5, 9, 13]]))
    with torch.no_grad():
        decoder.blocks(decoder.embed(word_BTD), at_site=lambda site, layer, _: seen.append((layer, site)))
        sites = ("mixed", "attn", "normed", "up", "key", "mlp", "hidden")
        assert seen == [(layer, site) for layer in range(decoder.layers) for site in sites]
        silent = decoder.block(
            0, decoder.embed(word_BTD), at_site=lambda site, _, value: value * 0 if site in ("attn", "mlp") else None
        )[0]
        torch.testing.assert_close(silent, decoder.embed(word_BTD))


@pytest.mark.parametrize("stored", [0, 3])
@pytest.mark.parametrize("read", [[4], [1, 3], [0, 1, 2, 3, 4]])
def test_a_block_can_compute_some_tokens_alone(model: LanguageModel, stored: int, read: list[int]) -> None:
    """The keys and values are those of all tokens; what comes out is a part of what comes out of the whole block."""
    decoder = model.decoder
    with torch.no_grad():
        state_BTD = decoder.embed(decoder.words(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12][: stored + 5]])))
        past = decoder.block(0, state_BTD[:, :stored])[1] if stored else None
        whole_BTD, keys = decoder.block(0, state_BTD[:, stored:], past=past)
        last_BTD, same = decoder.block(0, state_BTD[:, stored:], past=past, read_N=torch.tensor(read))
    torch.testing.assert_close(last_BTD, whole_BTD[:, read], rtol=0, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(keys, same, strict=True))
