"""Folders of every family: sharded, in bfloat16; texts longer than a window; and what is refused, by its name."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from family_models import FAMILIES, VOCABULARY, auto_model, configuration, module_of, write_model

from artifact.errors import ModelError, PromptError
from artifact.lm.families import family_of
from artifact.lm.load import load_folder


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_sharded_folder_in_bfloat16_loads(family: str, tmp_path: Path) -> None:
    """And computes in float32 what transformers computes from the same files in float32."""
    choose = Random(7).choice
    module = module_of(configuration(family, choose, vocabulary=VOCABULARY, layers=2, positions=64))
    write_model(tmp_path / family, module.to(torch.bfloat16), begins=True, max_shard_size="20KB")
    assert len(list((tmp_path / family).glob("model-*.safetensors"))) > 1
    model = load_folder(tmp_path / family)
    again = (
        auto_model(family).from_pretrained(tmp_path / family, dtype=torch.float32, attn_implementation="eager").eval()
    )
    encoded = model.tokens.encode("The Space Needle is")
    assert encoded.opening == 1 and encoded.find("The")[0] == 1
    decoder, ids_BT = model.decoder, torch.tensor([encoded.ids])
    found = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT))))
    expected = again(ids_BT).logits
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def first(family: str, **changes: Any) -> Any:
    """A configuration of a family's first settings, some changed."""
    config = configuration(family, lambda options: options[0], positions=64)
    for key, value in changes.items():
        setattr(config, key, value)
    return config


REFUSED = {
    "activation": ("qwen2", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; expected 'silu'"),
    "activation of a gemma": ("gemma2", {"hidden_activation": "silu"}, "hidden_activation = 'silu' is not supported"),
    "activation of a neox": ("gpt_neox", {"hidden_act": "relu"}, "hidden_act = 'relu' .* 'gelu' or 'gelu_new' or"),
    "both ways": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True is not"),
    "a cap without effect": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not"),
    "a cap of nothing": ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping = 0.0 is not possible"),
    "kinds of layers": ("gemma3_text", {"layer_types": ["linear_attention"]}, r"layer_types = \['linear_attention'\]"),
    "rotary share": ("mistral", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rot"),
    "no share": ("phi3", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0}}, "partial_rotary_factor"),
    "kind of scaling": ("olmo2", {"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}}, r"'su' \(rope_type\)"),
    "factor": ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 0}}, "original_max"),
    "short factors": (
        "phi3",
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 9}},
        "short_factor must be a list of",
    ),
}


@pytest.mark.parametrize(("family", "changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_computed_is_refused_by_its_name(family: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        family_of(first(family, **changes))
    assert str(error.value).isprintable()


LIMITED = {
    "mistral": ({"sliding_window": 8}, "sliding_window"),
    "qwen2": ({"use_sliding_window": True, "sliding_window": 8}, "sliding_window"),
    "gemma2": ({"sliding_window": 8}, "sliding_window"),
    "llama": (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "max_position_embeddings": 8},
        "",
    ),
    "phi3": (
        {
            "original_max_position_embeddings": 8,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0],
                "partial_rotary_factor": 0.5,
            },
        },
        "rope_parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", LIMITED)
def test_a_text_longer_than_what_is_computed_is_refused(family: str, tmp_path: Path) -> None:
    changes, key = LIMITED[family]
    config = configuration(family, lambda options: options[0], vocabulary=VOCABULARY, positions=64)
    write_model(tmp_path / family, module_of(config))
    settings = tmp_path / family / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))
    model = load_folder(tmp_path / family)
    words = f" ({key})" if key else ""
    with pytest.raises(PromptError) as error:
        model.tokens.encode("The capital of France is Paris, and the capital of Japan is Tokyo")
    assert f"tokens and the model 8 positions{words}; shorten it" in str(error.value)
    model.tokens.encode("The capital of")


SCALED = {
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "factor": 2.0},
}


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gpt_neox"])
@torch.no_grad()
def test_the_original_context_counts_beside_the_scaling_too(family: str, kind: str, tmp_path: Path) -> None:
    """transformers gives the top-level key priority; without it the model's own positions stand for it."""
    config = configuration(family, lambda options: options[0], vocabulary=VOCABULARY, positions=64)
    write_model(tmp_path / family, module_of(config))
    settings = tmp_path / family / "config.json"
    written = json.loads(settings.read_text())
    share = (written.pop("rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    pairs = int((written.get("head_dim") or written["hidden_size"] // written["num_attention_heads"]) * share) // 2
    factors = {"short_factor": [1.3] * pairs, "long_factor": [2.6] * pairs} if kind == "longrope" else {}
    more = {"rope_theta": 1e4, "rope_scaling": {**SCALED[kind], **factors}, "rotary_pct": share}
    settings.write_text(json.dumps(written | more | {"original_max_position_embeddings": 24}))
    theirs = auto_model(family).from_pretrained(tmp_path / family, attn_implementation="eager").eval()
    decoder, ids_BT = load_folder(tmp_path / family).decoder, torch.arange(20)[None]
    found = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT))))
    expected = theirs(ids_BT).logits
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    settings.write_text(json.dumps(written | more | {"original_max_position_embeddings": None}))
    load_folder(tmp_path / family)


@pytest.mark.parametrize("given", [False, None, 0])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("bert", "roberta")])
def test_a_decoder_that_reads_both_ways_is_refused(family: str, given: object, tmp_path: Path) -> None:
    config = configuration(family, lambda options: options[0], vocabulary=VOCABULARY, positions=64)
    write_model(tmp_path / family, module_of(config))
    settings = tmp_path / family / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"is_causal": given}))
    with pytest.raises(ModelError, match=rf"configuration is_causal = {given} is not supported; expected True"):
        load_folder(tmp_path / family)


def test_padding_is_no_part_of_a_prompt_where_positions_skip_it(tmp_path: Path) -> None:
    config = configuration("roberta", lambda options: options[0], vocabulary=VOCABULARY, positions=64)
    write_model(tmp_path / "roberta", module_of(config))
    tokens = load_folder(tmp_path / "roberta").tokens
    padding = tokens._tokenizer.convert_ids_to_tokens(config.pad_token_id)
    tokens.encode("The Space Needle is")
    with pytest.raises(PromptError, match=f"holds the padding token '{re.escape(padding)}'; leave it out"):
        tokens.encode(f"The Space {padding} Needle is")
