"""An estimate for any model from its configuration alone: a folder without weights, the hub; over several cards."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from cheap import refusing
from family_models import FAMILIES, auto_model, configuration
from hub import serving
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from artifact.bench.planned import cards_of, planned, shape_of
from artifact.cli import call
from artifact.lm.cards import spread
from artifact.lm.families import family_of

LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
GPU = ("--rate", "400TFLOPS", "--bandwidth", "3350GB/s", "--gpu-memory", "80GB")
ESTIMATE = ("doctor", "--estimate", "smoke", *GPU)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text(json.dumps(LLAMA_70B))
    return tmp_path / "big"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_counts_what_transformers_module_has(family: str) -> None:
    config = configuration(family, Random(1).choice, vocabulary=300)
    with torch.device("meta"):
        module = auto_model(family).from_config(config)
    known = family_of(config)
    shape = shape_of(known, known.sizes(config), 2)
    blocks = module.get_submodule(known.blocks)
    entries = sum(weight.numel() for weight in blocks.parameters() if weight.dim() == 2)
    assert shape.layers * shape.linear == entries
    ends = [module.get_input_embeddings().weight.numel()] * (1 if config.tie_word_embeddings else 2)
    assert shape.weights == 2 * (entries + sum(ends))
    assert 0 < shape.attention_in < shape.linear


def test_a_llama_of_70b_over_four_cards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**LLAMA_70B))
    entries = sum(weight.numel() for weight in module.parameters())
    assert planned(str(folder), "bfloat16").shape.weights == pytest.approx(2 * entries, rel=1e-3)
    assert call([*ESTIMATE, "--model", str(folder), "--dtype", "bfloat16", "--cards", "4"]) == 0
    said = capsys.readouterr().out
    assert "weights 141.1 GB" in said and "fits 80.0 GB" in said
    held = [line for line in said.splitlines() if line.startswith("card ")]
    assert len(held) == 4 and "layers 50 to 79: 51.3 GB" in held[3]
    assert call([*ESTIMATE, "--model", str(folder), "--dtype", "bfloat16"]) == 0
    assert "does not fit 80.0 GB: take a larger device, or more of them (--cards)" in capsys.readouterr().out


def test_a_model_of_the_hub_is_planned_without_its_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "kloc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (folder / "model.safetensors").write_bytes(b"x" * 1_500_000)
    with serving(folder, "meta-llama/Big-70B", "ab" * 20) as hub:
        hub.in_use(monkeypatch)
        assert call([*ESTIMATE, "--model", "meta-llama/Big-70B", "--cards", "8"]) == 0
        assert not [path for path in hub.asked if path.endswith(".safetensors")]
    said = capsys.readouterr().out
    assert (
        "smoke on meta-llama/Big-70B" in said and "weights 282.2 GB" in said and "disk: 1.5 MB still to fetch" in said
    )


def test_what_cannot_be_planned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = refusing(capsys)
    known = "gpt2, gpt2-xl, gpt-j, world, world-masked, smollm2"
    assert f"is neither a known name ({known}), a model of the hub" in refused(*ESTIMATE, "--model", "gpt5")
    encoders = refused("doctor", "--estimate", "encoders", *GPU, "--model", "gpt2")
    assert "nothing of it is left; gpt2 is not an encoder; name a BERT or RoBERTa" in encoders
    assert "holds no config.json" in refused(*ESTIMATE, "--model", tmp_path)
    assert "--dtype needs --model with --estimate" in refused(*ESTIMATE, "--dtype", "bfloat16")
    assert "need --estimate" in refused("doctor", "--model", "gpt2")


def test_units_that_a_model_cannot_do_are_said_and_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*ESTIMATE, "--model", "world-masked"]) == 0
    said = capsys.readouterr().out
    assert "smoke on world-masked" in said and "left out: memit-relation, memit-entity: MEMIT edits decoders" in said
    assert not [line for line in said.splitlines() if line.startswith("memit-")]
    assert call([*ESTIMATE, "--model", "world"]) == 0
    said = capsys.readouterr().out
    assert "left out" not in said and [line for line in said.splitlines() if line.startswith("memit-")]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
    st.integers(0, 60),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_blocks_are_spread_in_order_and_evenly(blocks: list[int], first: int, free: list[int]) -> None:
    placed = spread(blocks, first, free)
    assert placed == sorted(placed) and len(placed) == len(blocks)
    held: list[Any] = [first * (card == 0) for card in range(len(free))]
    for card, size in zip(placed, blocks, strict=True):
        held[card] += size
    share = (first + sum(blocks)) / sum(free)
    for card, size in enumerate(held):
        if card or first <= share * free[0]:
            assert size <= share * free[card] + max(blocks)


def test_one_card_needs_no_plan(folder: Path) -> None:
    assert cards_of(planned(str(folder)).shape, 0, 1) == ()
