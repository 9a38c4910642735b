"""What a family expects of a file is what transformers' module of any configuration has, and a bad one is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_models import SCALINGS, auto_model, configuration
from fuzz.damage import NASTY
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, GPT2Config, GPTJConfig, LlamaConfig, RobertaConfig

from artifact.errors import ModelError
from artifact.lm.families import FAMILIES, family_of
from artifact.lm.families.gpt2 import GPT2
from artifact.lm.families.rotary import rotary_of
from artifact.lm.families.sizes import BOUNDS, check_size


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(FAMILIES)), st.data())
def test_expected_tensors_are_those_of_transformers_module(name: str, data: st.DataObject) -> None:
    config = configuration(name, lambda options: data.draw(st.sampled_from(list(options))))
    with torch.device("meta"):
        module = auto_model(name).from_config(config)
    family = family_of(config)
    expected = family.tensors(family.sizes(config))
    found = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    head = "lm_head.weight" if family.causal else f"{family.head}.weight"
    assert found.pop(head) == expected[f"{family.embedding}.weight"]
    found = {name: shape for name, shape in found.items() if family.causal or not family.buffers.fullmatch(name)}
    assert expected == found
    assert family.sizes(config).tied is bool(config.tie_word_embeddings)


def odd_heads() -> LlamaConfig:
    config = LlamaConfig()
    config.head_dim = 5  # transformers of today refuses it by itself
    return config


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GPT2Config(n_embd=10, n_head=3), "3 heads do not divide its width 10"),
        (GPTJConfig(n_embd=12, n_head=3, rotary_dim=6), "rotary_dim 6 does not fit heads of width 4"),
        (GPTJConfig(n_embd=16, n_head=2, rotary_dim=3), "rotary_dim 3 does not fit heads of width 8"),
        (LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=3), "3 key/value heads do not divide"),
        (odd_heads(), "5 entries of heads of width 5 cannot be rotated"),
        (GPT2Config(activation_function="relu"), "activation_function = 'relu' is not supported"),
        (SimpleNamespace(model_type="t5"), "'t5' is not supported; expected gpt2, gptj, llama, .*or roberta"),
        (BertConfig(hidden_size=10, num_attention_heads=4), "4 heads do not divide its width 10"),
        (BertConfig(hidden_act="relu"), "hidden_act = 'relu' is not supported; expected 'gelu' or"),
        (BertConfig(is_decoder=True), "is_decoder = True is not supported; expected False"),
        (BertConfig(position_embedding_type="relative_key"), "position_embedding_type = 'relative_key' is not supp"),
        (RobertaConfig(pad_token_id=511, max_position_embeddings=512), "pad_token_id = 511 is not possible"),
        (SimpleNamespace(model_type=["gpt2"]), "is not supported; expected gpt2, gptj, llama, "),
    ],
)
def test_refused_configurations(config: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        family_of(config)


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, 1.0, float("nan"), float("inf"), True])
def test_an_epsilon_that_is_not_one(epsilon: Any) -> None:
    config = SimpleNamespace(**GPT2Config().to_dict() | {"hidden_size": 768, "layer_norm_epsilon": epsilon})
    with pytest.raises(ModelError, match="epsilon of norms is .*; expected a number such as 1e-05"):
        GPT2().sizes(config)


@pytest.mark.parametrize("kind", BOUNDS)
def test_sizes_within_bounds(kind: str) -> None:
    for value in (1, BOUNDS[kind]):
        check_size("n", value, kind, False)
    check_size("n", None, kind, True)
    for value in (0, -1, BOUNDS[kind] + 1, 1.0, "12", True, None, [1], 10**400):
        with pytest.raises(ModelError, match=r"configuration n = .{1,40} is not possible; expected a whole number"):
            check_size("n", value, kind, False)


ROTARY = {
    **{"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "beta_fast": 32, "beta_slow": 1, "truncate": True, "attention_factor": 1.25},
    **{"mscale": 1.0, "mscale_all_dim": 1.0, "short_factor": [1.0] * 4, "partial_rotary_factor": 1.0},
}
ODD_FACTORS = ([1.0, "x", 1.0, 1.0], [True] * 4, [10**400] * 4, [1e-320] * 4)


@pytest.mark.parametrize("kind", [*SCALINGS, "longrope"])
def test_a_rotary_value_that_is_none_is_one_line(kind: str) -> None:
    """Whatever stands in a configuration: finite frequencies, or a ModelError that names the value."""
    for key in ("rope_type", *ROTARY):
        for odd in (*NASTY, *ODD_FACTORS, 1.0, 10**29, [kind]):
            computed = () if key == "attention_factor" else ("attention_factor",)  # from the other values
            given = {"rope_type": kind} | {name: value for name, value in ROTARY.items() if name not in computed}
            try:
                rotary = rotary_of(8, given | {key: odd}, 32, partial=True)
            except ModelError as error:
                assert len(str(error)) < 300
            else:
                assert bool(rotary.frequency_F.isfinite().all()) and rotary.strength > 0
