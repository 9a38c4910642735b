"""Published hyperparameter files, as ROME's, MEMIT's and the authors' repositories hold them: taken or refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import llama_module, write_folder

from artifact.cli import call
from artifact.editing.mend_weights import read_network
from artifact.editing.methods import METHODS
from artifact.editing.moments.files import PROVENANCE, Moments, read_moments
from artifact.editing.published import notes
from artifact.errors import SettingError
from artifact.lm.load import load_folder

REFERENCE = Path(__file__).parent.parent / "reference"
XL_MODULES = {
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f",
    "lm_head_module": "transformer.wte",
}
J_MODULES = XL_MODULES | {"rewrite_module_tmp": "transformer.h.{}.mlp.fc_out", "lm_head_module": "lm_head"}
MOMENTS = {"mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32"}
ROME = {
    "layers": [17], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 5e-1, "v_loss_layer": 47,
    "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": True,
}  # fmt: skip
MEMIT = {
    "layers": [3, 4, 5, 6, 7, 8], "clamp_norm_factor": 0.75, "layer_selection": "all", "fact_token": "subject_last",
    "v_num_grad_steps": 25, "v_lr": 5e-1, "v_loss_layer": 27, "v_weight_decay": 0.5, "kl_factor": 0.0625,
    "mom2_adjustment": True, "mom2_update_weight": 15000,
}  # fmt: skip
FT = {"layers": [0], "num_steps": 25, "lr": 5e-4, "weight_decay": 0, "kl_factor": 0, "norm_constraint": 5e-4}
MEND = {"lr_scale": 1.0, "n_toks": 10, "model_name": "gpt2-xl", "counterfact": False}
KN = {
    "lr_scale": 1.0, "n_toks": 10, "model_name": "gpt2-xl", "refine": False, "batch_size": 20, "steps": 20,
    "adaptive_threshold": 0.2, "p": 0.4,
}  # fmt: skip
PUBLISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("rome", "gpt2-xl", ROME | XL_MODULES | MOMENTS),
    ("rome", "gpt-j", ROME | {"layers": [5], "v_loss_layer": 27} | J_MODULES | MOMENTS),
    ("memit", "gpt-j", MEMIT | J_MODULES | MOMENTS),
    ("ft", "gpt2-xl", FT | XL_MODULES),
    ("ft", "gpt-j", FT | {"norm_constraint": 5e-5} | J_MODULES),
    ("mend", "gpt2-xl", MEND),
    ("mend", "gpt2-xl", MEND | {"mini": False, "zsre": False}),
    ("mend", "gpt-j", MEND | {"model_name": "EleutherAI/gpt-j-6B"}),
    ("kn", "gpt2-xl", KN),
]
DEPTHS = {"gpt2-xl": 48, "gpt-j": 28}
FT_ATTENTION = FT | XL_MODULES | {"layers": [33], "lr": 1e-3, "rewrite_module_tmp": "transformer.h.{}.attn.c_attn"}
FT_BLOCK = FT | J_MODULES | {"layers": [21], "rewrite_module_tmp": "transformer.h.{}"}


def file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("method", "model", "content"), PUBLISHED)
def test_a_published_file_is_what_the_package_takes_by_itself(method, model, content, tmp_path) -> None:
    """Word for word: the same values, and no key refused."""
    given = METHODS[method].hparams_for(model, DEPTHS[model], file(tmp_path, content))
    assert given == METHODS[method].hparams_for(model, DEPTHS[model])
    assert "some given instead" not in METHODS[method].hparams_source(given, model, DEPTHS[model])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (FT_ATTENTION, r"rewrite_module_tmp names 'transformer.h.{}.attn.c_attn'.*mlp.c_proj.*used here"),
        (FT_BLOCK, r"rewrite_module_tmp names 'transformer.h.{}'"),
        (FT | J_MODULES, r"rewrite_module_tmp names 'transformer.h.{}.mlp.fc_out'"),
        (FT | XL_MODULES | {"layer_module_tmp": "gpt_neox.layers.{}"}, "layer_module_tmp names"),
        (FT | XL_MODULES | {"mlp_module_tmp": "transformer.h.{}.attn"}, "mlp_module_tmp names"),
        (FT | XL_MODULES | {"attn_module_tmp": "transformer.h.{}.mlp"}, "attn_module_tmp names"),
        (FT | XL_MODULES | {"ln_f_module": "transformer.h.47.ln_2"}, "ln_f_module names"),
        (FT | XL_MODULES | {"lm_head_module": "transformer.wpe"}, "lm_head_module names"),
        (FT | {"rewrite_module_tmp": None}, "rewrite_module_tmp names None"),
        (FT | {"wd_power_law": [-0.87, 0.16]}, "wd_power_law is"),
        (FT | {"FT_subj_embeds": True}, "unknown field `FT_subj_embeds`"),
    ],
)
def test_a_file_for_another_module_is_refused(content, says, tiny, tmp_path) -> None:
    with pytest.raises(SettingError, match=says) as refused:
        METHODS["ft"].hparams_for("tiny-gpt2", 48, file(tmp_path, content), tiny("tiny-gpt2").decoder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [FT_ATTENTION, FT_BLOCK])
def test_it_is_refused_for_a_model_of_unknown_family_too(content, tmp_path) -> None:
    with pytest.raises(SettingError, match="rewrite_module_tmp names"):
        METHODS["ft"].hparams_for("gpt2-xl", 48, file(tmp_path, content))


def test_modules_of_every_family(tiny, tmp_path) -> None:
    """Each family's own names are taken, and the others' refused."""
    llama = load_folder(write_folder(tmp_path / "llama", llama_module()))
    llama_modules = {
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj", "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp", "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm", "lm_head_module": "lm_head",
    }  # fmt: skip
    models = [(tiny("tiny-gpt2"), XL_MODULES), (tiny("tiny-gptj"), J_MODULES), (llama, llama_modules)]
    for model, _ in models:
        for other, modules in models:
            path, decoder = file(tmp_path, FT | modules), model.decoder
            if other is model:
                assert METHODS["ft"].hparams_for("x", decoder.layers, path, decoder).layers == (0,)
            else:
                with pytest.raises(SettingError, match="rewrite_module_tmp names"):
                    METHODS["ft"].hparams_for("x", decoder.layers, path, decoder)
    untied = file(tmp_path, {"lm_head_module": "transformer.wte"})
    with pytest.raises(SettingError, match="lm_head_module names 'transformer.wte', and lm_head is used"):
        METHODS["ft"].hparams_for("x", 4, untied, tiny("tiny-gptj").decoder)


def test_a_weight_decay_of_false_is_none(tmp_path) -> None:
    """As GPT-J's FT file with a power law writes it."""
    assert METHODS["ft"].hparams_for("gpt2-xl", 48, file(tmp_path, {"weight_decay": False})).weight_decay == 0.0
    with pytest.raises(SettingError, match="weight_decay"):
        METHODS["ft"].hparams_for("gpt2-xl", 48, file(tmp_path, {"weight_decay": True}))


def test_all_layers_are_selected_always(tmp_path) -> None:
    with pytest.raises(SettingError, match="layer_selection is 'random' and only 'all'"):
        METHODS["memit"].hparams_for("gpt-j", 28, file(tmp_path, MEMIT | {"layer_selection": "random"}))


def test_what_is_settled_elsewhere_is_said(tiny, tmp_path) -> None:
    """A line where the file and what is used differ, and none where they agree."""
    model, folder = tiny("tiny-gpt2"), REFERENCE / "moments" / "tiny-gpt2"
    asked = file(tmp_path, ROME | MOMENTS)
    assert notes(None, model, read_moments(folder), None) == notes(asked, model, read_moments(folder), None) == ()
    (own,) = notes(asked, model, Moments("3 texts drawn from the model itself"), None)
    assert own == (
        "hparams.json names other second moments (mom2_dataset wikipedia, mom2_n_samples 100000, mom2_dtype float32); "
        "used are those of 3 texts drawn from the model itself"
    )
    for key, value in (("mom2_dataset", "wikitext"), ("mom2_n_samples", 5), ("mom2_dtype", "float64")):
        (said,) = notes(file(tmp_path, {key: value}), model, read_moments(folder), None)
        assert f"{key} {value}" in said and "folder tiny-gpt2" in said
    (tmp_path / PROVENANCE).write_text(json.dumps({"source": "news", "texts": 3, "tokens": 9}))
    (said,) = notes(file(tmp_path, MOMENTS), model, read_moments(tmp_path), None)
    assert "other corpus: news" in said
    network = read_network(REFERENCE / "mend" / "mend_network.npz")
    path = file(tmp_path, MEND | {"counterfact": True, "model_name": "tiny-gpt2"})
    (said,) = notes(path, model, None, network)
    assert said == f"hparams.json names a network trained with counterfact; used is {network.source}"
    assert notes(file(tmp_path, {"model_name": "EleutherAI/gpt-j-6B"}), replace(model, name="gpt-j"), None, None) == ()


def test_the_command_says_it(tmp_path, capsys) -> None:
    """MEND's file whole, on another model than the one it names; FT's attention file in one line."""
    request, out = tmp_path / "request.json", tmp_path / "edit.safetensors"
    request.write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[0]))
    command = ["edit", "--model", REFERENCE / "models" / "tiny-gpt2", "--request", request, "--out", out]
    mend = ["--method", "mend", "--mend-weights", REFERENCE / "mend" / "mend_network.npz"]
    asked = [*command, *mend, "--hparams", file(tmp_path, MEND)]
    assert call([str(word) for word in asked]) == 0
    assert "hparams.json is for the model gpt2-xl; the model edited is" in capsys.readouterr().out
    out.unlink()
    asked = [*command, "--method", "ft", "--hparams", file(tmp_path, FT_ATTENTION | {"layers": [3]})]
    assert call([str(word) for word in asked]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "attn.c_attn" in said and not out.exists()


def test_where_values_come_from() -> None:
    """The paper's tables have no KN and no FT row on GPT-J; of editors of after the paper some values are ours."""
    words = {
        (m, model): METHODS[m].hparams_source(METHODS[m].hparams_for(model, n), model, n)
        for m in METHODS
        for model, n in DEPTHS.items()
    }
    ours = {key for key, said in words.items() if "published for this model" not in said}
    assert ours - {("kn", "gpt-j"), ("ft", "gpt-j")} == {
        *(("rets", model) for model in DEPTHS),
        ("pmet", "gpt2-xl"),
    }
    words = {key: said for key, said in words.items() if key[0] not in ("rets", "pmet")}
    assert words.pop(("kn", "gpt-j")) == "not in the tables, threshold published elsewhere"
    assert words.pop(("ft", "gpt-j")) == "not in the tables, values published elsewhere"
    assert set(words.values()) == {"published for this model"}


@pytest.mark.parametrize(
    ("method", "model", "layers", "values"),
    [
        ("memit", "EleutherAI/gpt-neox-20b", (6, 7, 8, 9, 10), {"v_loss_layer": 43}),
        ("memit", "meta-llama/Llama-2-7b-hf", (4, 5, 6, 7, 8), {"v_loss_layer": 31}),
        ("memit", "meta-llama/Meta-Llama-3-8B", (4, 5, 6, 7, 8), {"v_lr": 0.1, "v_num_grad_steps": 25}),
        ("memit", "Qwen/Qwen2.5-7B", (4, 5, 6, 7, 8), {"v_lr": 0.5, "v_weight_decay": 1e-3, "clamp_norm_factor": 4.0}),
        ("alphaedit", "meta-llama/Meta-Llama-3-8B", (4, 5, 6, 7, 8), {"v_lr": 0.1, "v_num_grad_steps": 25, "l2": 10.0}),
        ("rome", "EleutherAI/pythia-2.8b", (15,), {"clamp_norm_factor": 3.0, "v_loss_layer": 31}),
    ],
)
def test_settings_published_for_models_of_the_hub(
    method: str, model: str, layers: tuple[int, ...], values: dict[str, Any]
) -> None:
    """BEYOND's list; by the repository's name alone, and with words that say what is published of them."""
    depth = values.get("v_loss_layer", {"Qwen/Qwen2.5-7B": 27}.get(model, 31)) + 1
    found = METHODS[method].hparams_for(model, depth)
    assert found.layers == layers and {key: getattr(found, key) for key in values} == values
    assert found.v_loss_layer == depth - 1
    assert "published for this model, the rest GPT-2 XL's" in METHODS[method].hparams_source(found, model, depth)
    assert METHODS[method].hparams_for("a/" + model.partition("/")[2], depth).layers != layers


def test_pmet_takes_memits_published_layers_and_lambda_and_keeps_its_own_rest() -> None:
    model = "meta-llama/Meta-Llama-3-8B"
    found = METHODS["pmet"].hparams_for(model, 32)
    assert (found.layers, found.v_loss_layer, found.mom2_update_weight) == ((4, 5, 6, 7, 8), 31, 15000.0)
    assert (found.v_lr, found.v_num_grad_steps) == (0.2, 30)
    assert "published for MEMIT on this model" in METHODS["pmet"].hparams_source(found, model, 32)
