"""Llama in the decoder equals transformers: logits, every site, from any layer, whatever the heads; its tokenizers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import byte_tokenizer, llama_module, write_folder

from artifact.editing.edit import Edit, LowRank, row_edits
from artifact.editing.prefixes import sample
from artifact.errors import ModelError
from artifact.facts.fact import Statement
from artifact.lm.aligned import Aligned
from artifact.lm.decoder import Decoder
from artifact.lm.load import from_module, load_folder
from artifact.lm.tokens import Tokens
from artifact.tracing.corruption import corrupted_tokens

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
SCALED = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
SCALED |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SHAPES = {
    "grouped": {},
    "one key head, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "no groups, biases": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "odd group, biases, tied": {"num_attention_heads": 6, "hidden_size": 48, "tie_word_embeddings": True}
    | {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 12, "mlp_bias": True},
    "other theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "attention_bias": True},
    "scaled": {"rope_parameters": SCALED, "head_dim": 16},
}


def all_logits(decoder: Decoder, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
    return decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)), **more))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_logits_equal_transformers(shape: str, device: str) -> None:
    module = llama_module(**SHAPES[shape]).to(device)
    ids_BT = torch.randint(0, 400, (2, 90), device=device)  # beyond the scaled model's original context
    assert relative(all_logits(from_module(module, device), ids_BT), module(ids_BT).logits) < 1e-5
    for dtype, limit in ((torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
        narrow = llama_module(**SHAPES[shape]).to(device, dtype)
        found = all_logits(from_module(narrow, device), ids_BT[:, :20])
        assert relative(found, narrow(ids_BT[:, :20]).logits) < limit


@pytest.mark.parametrize("shape", ["grouped", "no groups, biases"])
@torch.no_grad()
def test_sites_equal_transformers_modules(shape: str) -> None:
    """`normed` and `up` are what the gate projection takes and gives; `key` and `mixed` what those after them take."""
    module = llama_module(**SHAPES[shape])
    decoder = from_module(module)
    ids_BT = torch.randint(0, 400, (2, 9))
    expected: dict[tuple[str, int], torch.Tensor] = {}

    def keep(layer: int, given: str | None, output: str):
        def hook(_, args, found) -> None:
            expected[output, layer] = found[0] if isinstance(found, tuple) else found
            if given:
                expected[given, layer] = args[0]

        return hook

    for layer, block in enumerate(module.model.layers):
        block.register_forward_hook(keep(layer, None, "hidden"))
        block.self_attn.register_forward_hook(keep(layer, None, "attn"))
        block.self_attn.o_proj.register_forward_hook(keep(layer, "mixed", "projected"))
        block.mlp.register_forward_hook(keep(layer, None, "mlp"))
        block.mlp.gate_proj.register_forward_hook(keep(layer, "normed", "up"))
        block.mlp.down_proj.register_forward_hook(keep(layer, "key", "out"))
    module(ids_BT)
    found: dict[tuple[str, int], torch.Tensor] = {}
    run = decoder.run(
        decoder.words(ids_BT), ("mlp", "attn"), lambda site, layer, value: found.update({(site, layer): value})
    )
    assert len(found) == 7 * decoder.layers
    for place, value in found.items():
        assert relative(value, expected[place]) < 1e-5, place
    for layer in range(decoder.layers):
        assert torch.equal(run.outputs["attn"][layer], found["attn", layer])
        assert run.keys[layer][0].shape == (2, decoder.family.key_heads, 9, 8)  # stored as narrow as the model has them


@pytest.mark.parametrize("shape", ["grouped", "odd group, biases, tied", "scaled"])
@torch.no_grad()
def test_any_layer_any_suffix(shape: str) -> None:
    decoder = from_module(llama_module(**SHAPES[shape]))
    ids_BT = torch.randint(0, 400, (2, 7))
    run = decoder.run(decoder.words(ids_BT))
    for first in range(decoder.layers):
        for left in range(7):
            past = [(key[:, :, :left], value[:, :, :left]) for key, value in run.keys] if left else None
            found = decoder.blocks(run.states_LBTD[first][:, left:], first, past=past)
            torch.testing.assert_close(found, run.states_LBTD[-1][:, left:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_aligned_elsewhere_equal_rows_alone() -> None:
    """Rows of 5 and 3 tokens padded on the left, at positions of their own, and a right-padded pair."""
    decoder = from_module(llama_module())
    texts = [[7, 9, 50, 3, 80], [8, 33, 61]]
    alone = [all_logits(decoder, torch.tensor([text]))[0] for text in texts]
    ids_BT = torch.tensor([texts[0], [0, 0, *texts[1]]])
    position_BT = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    seen_BTT = torch.ones(2, 5, 5, dtype=torch.bool).tril()
    seen_BTT[1, :, :2] = False
    seen_BTT[1, 0, 0] = seen_BTT[1, 1, 1] = True
    aligned = Aligned(position_BT, seen_BTT[:, None])
    together = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT), aligned=aligned), aligned=aligned))
    torch.testing.assert_close(together[0], alone[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1, 2:], alone[1], rtol=1e-4, atol=1e-4)
    padded = all_logits(decoder, torch.tensor([texts[0], [*texts[1], 0, 0]]))
    torch.testing.assert_close(padded[1, :3], alone[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_row_carries_its_own_edit() -> None:
    """In every linear layer of a block, the gate among them; equal to transformers' model with the weight changed."""
    ids_BT = torch.tensor([[5, 9, 13, 4]] * 2)
    parts = ("attn_query", "attn_key", "attn_value", "attn_out", "mlp_gate", "mlp_up", "mlp_down")
    for part in parts:
        module = llama_module(mlp_bias=True)
        decoder = from_module(module)
        name = decoder.family.name(part, 1)
        layer = module.get_submodule(name)
        outputs, inputs = layer.weight.shape
        edit = Edit({name: LowRank(torch.randn(inputs, 1) / 4, torch.randn(1, outputs) / 4)})
        found = all_logits(decoder, ids_BT, edits=row_edits([edit, Edit({})], [0, 1]))
        unedited = module(ids_BT).logits
        layer.weight += edit.tensors(decoder)[f"{name}.weight"]
        assert relative(found[0], module(ids_BT).logits[0]) < 1e-4, part
        assert relative(found[1], unedited[1]) < 1e-4
        assert relative(found[0], found[1]) > 1e-3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hidden_act": "gelu"}, "configuration hidden_act = 'gelu' is not supported; expected 'silu'"),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}},
            r"rotary positions of type 'proportional' \(rope_type\) are not supported; expected default, linear, .*",
        ),
    ],
)
def test_configurations_the_pass_does_not_know(tmp_path: Path, options: dict, says: str) -> None:
    folder = write_folder(tmp_path / "model", llama_module(**options))
    with pytest.raises(ModelError, match=says):
        load_folder(folder)


def test_quantised_weights_are_refused() -> None:
    module = llama_module()
    module.config.quantization_config = {"quant_method": "awq"}
    with pytest.raises(ModelError, match="quantised weights are not supported; give the model in float32"):
        from_module(module)


def test_a_folder_loads_with_its_tokens(tmp_path: Path) -> None:
    """Nothing stands in front of a prompt; samples begin behind <|endoftext|> and draw no special token."""
    model = load_folder(write_folder(tmp_path / "model", llama_module(tie_word_embeddings=True)))
    tokens = model.tokens
    assert (tokens.opening, tokens.document_id, tokens.end_id, tokens.special_ids) == ((), 0, 2, (0, 1, 2))
    encoded = tokens.encode("The Space Needle is")
    assert encoded.span(0, 3) == (0,) and encoded.ids[0] != 0
    (drawn,) = sample(model, 1, 6, seed=0, top=1)
    with torch.no_grad():
        for position, token in enumerate(drawn):
            logits_V = all_logits(model.decoder, torch.tensor([[0, *drawn[:position]]]))[0, -1]
            logits_V[[0, 1, 2]] = -torch.inf
            assert token == int(logits_V.argmax())
    everything = {token for text in sample(model, 40, 20, seed=0, top=400) for token in text}
    assert len(everything) > 200 and not everything & {0, 1, 2}


def test_a_tokenizer_that_begins_its_texts() -> None:
    """The begin token stands in front of prompts and behind no text; no character is it, and no noise goes there."""
    tokens, plain = Tokens(byte_tokenizer(begins=True), 256), Tokens(byte_tokenizer(), 256)
    text = "The Space Needle is located in"
    encoded = tokens.encode(text)
    assert encoded.ids == (1, *plain.encode(text).ids)
    assert tokens.ids(" Seattle") == plain.ids(" Seattle")
    assert (tokens.opening, tokens.document_id) == ((1,), 1)
    subject = encoded.find("Space Needle")
    assert tuple(i - 1 for i in subject) == plain.encode(text).find("Space Needle")
    statement = Statement(case_id=0, prompt=text, subject="Space Needle")
    assert corrupted_tokens(encoded, statement, "relation") == tuple(
        i for i in range(1, len(encoded.ids)) if i not in subject
    )


def test_a_begun_sample_follows_the_begin_token(tmp_path: Path) -> None:
    model = load_folder(write_folder(tmp_path / "model", llama_module(), begins=True))
    start = model.tokens.ids("The")
    (drawn,) = sample(model, 1, 1, seed=0, top=1, start=start)
    with torch.no_grad():
        logits_V = all_logits(model.decoder, torch.tensor([[1, *start]]))[0, -1]
    logits_V[[0, 1, 2]] = -torch.inf
    assert drawn == [int(logits_V.argmax())]
