"""The parts of an edit: its file, hyperparameters and prefixes."""

import json

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from artifact.editing.edit import Dense, Edit, LowRank, checked_norm, row_edits
from artifact.editing.edit_file import read_edit
from artifact.editing.hparams import hparams_hash
from artifact.editing.methods import METHODS
from artifact.errors import EditError, FactError, SettingError
from artifact.evaluation.score import score_cases


def an_edit(model, scale: float = 1.0) -> Edit:
    name = model.decoder.family.name("mlp_down", 1)
    generator = torch.Generator().manual_seed(0)
    left_IR = torch.randn(256, 1, generator=generator) / 16
    return Edit({name: LowRank(left_IR * scale, torch.randn(1, 64, generator=generator))})


def test_an_edit_scores_the_same_from_its_file(model, facts, tmp_path) -> None:
    edit = an_edit(model)
    save_file(edit.tensors(model.decoder), tmp_path / "edit.safetensors")
    again = read_edit(tmp_path / "edit.safetensors", model).edit
    direct = score_cases(model, [facts[0]], [edit])[0].views["entity"].prompts["reliability"][0]
    read = score_cases(model, [facts[0]], again)[0].views["entity"].prompts["reliability"][0]
    unedited = score_cases(model, [facts[0]])[0].views["entity"].prompts["reliability"][0]
    assert read.target_new == pytest.approx(direct.target_new, abs=1e-5)
    assert abs(unedited.target_new - direct.target_new) > 1e-3


def test_bias_changes_are_read_too(model, tmp_path) -> None:
    name = model.decoder.family.name("mlp_down", 1)
    save_file({f"{name}.bias": torch.full((64,), 0.5)}, tmp_path / "edit.safetensors")
    change = read_edit(tmp_path / "edit.safetensors", model).edit.changes[name]
    assert torch.equal(change.output(torch.randn(2, 3, 256)), torch.full((2, 3, 64), 0.5))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"transformer.h.9.mlp.c_proj.weight": torch.ones(256, 64)}, "not a weight of this model"),
        ({"transformer.wte.weight": torch.ones(800, 64)}, "not a weight of this model's blocks"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.ones(64, 256)}, r"of shape \(256, 64\), got \(64, 256\)"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.full((256, 64), float("nan"))}, "is not finite"),
    ],
)
def test_a_file_of_another_model_is_refused(tiny, tmp_path, tensors, says) -> None:
    save_file(tensors, tmp_path / "edit.safetensors")
    with pytest.raises(EditError, match=says):
        read_edit(tmp_path / "edit.safetensors", tiny("tiny-gpt2"))


def test_bad_bytes_are_refused(tiny, tmp_path) -> None:
    (tmp_path / "edit.safetensors").write_bytes(b"not an edit")
    with pytest.raises(EditError, match="cannot be read as a safetensors file"):
        read_edit(tmp_path / "edit.safetensors", tiny("tiny-gpt2"))
    with pytest.raises(EditError, match="cannot be read as a safetensors file"):
        read_edit(tmp_path / "absent.safetensors", tiny("tiny-gpt2"))


def test_rows_carry_edits_of_any_kind(model) -> None:
    """Low ranks of several sizes, dense changes, and layers that some edits leave alone, in one batch."""
    up, down = (model.decoder.family.name(part, 1) for part in ("mlp_up", "mlp_down"))
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    low, wide = LowRank(random(256, 1), random(1, 64)), LowRank(random(256, 3), random(3, 64))
    dense = Dense(random(256, 64), random(64))
    other = LowRank(random(64, 2), random(2, 256))
    for edits in (
        [Edit({down: low}), Edit({down: wide}), Edit({up: other})],
        [Edit({down: low}), Edit({down: dense}), Edit({up: other, down: wide})],
    ):
        row_edit = [2, 0, 1, 0, 2]
        input_BTI = {down: random(5, 3, 256), up: random(5, 3, 64)}
        found = row_edits(edits, row_edit)
        assert found.keys() == {up, down}
        for name, change in found.items():
            output = change.output(input_BTI[name])
            for b, number in enumerate(row_edit):
                own = edits[number].changes.get(name)
                alone = torch.zeros(3, output.shape[-1]) if own is None else own.output(input_BTI[name][b : b + 1])[0]
                torch.testing.assert_close(output[b], alone, rtol=1e-5, atol=1e-4)
    # Rows of one edit only: nothing of the others is read, and a layer it leaves alone gains nothing.
    assert row_edits([Edit({down: low}), Edit({up: other})], [0, 0]).keys() == {down}


def test_norms_need_no_matrix() -> None:
    left, right = torch.randn(20, 3), torch.randn(3, 7)
    dense = Dense(torch.randn(20, 7), torch.randn(7))
    assert LowRank(left, right).norm() == pytest.approx(float((left @ right).norm()), rel=1e-5)
    together = Edit({"a": LowRank(left, right), "b": dense}).norm()
    assert together**2 == pytest.approx(LowRank(left, right).norm() ** 2 + dense.norm() ** 2)
    for bad in (LowRank(left * 0, right), LowRank(left * float("nan"), right), Dense(torch.full((2, 2), float("inf")))):
        with pytest.raises(EditError, match="weight change has norm"):
            checked_norm(Edit({"a": bad}))


@pytest.mark.parametrize(
    ("model", "layers", "expected"),
    [
        ("gpt2-xl", 48, {"ft": "[0] 25 0.0005 0.0005", "memit": "[13, 14, 15, 16, 17] 20 20000 0.75"}),
        ("gpt-j", 28, {"ft": "[0] 25 0.0005 5e-05", "memit": "[3, 4, 5, 6, 7, 8] 25 15000 0.75"}),
    ],
)
def test_published_values_of_the_other_methods(model, layers, expected) -> None:
    """The protocol's table, transcribed."""
    ft, memit = METHODS["ft"].hparams_for(model, layers), METHODS["memit"].hparams_for(model, layers)
    assert f"{list(ft.layers)} {ft.num_steps} {ft.lr:g} {ft.norm_constraint:g}" == expected["ft"]
    assert (
        f"{list(memit.layers)} {memit.v_num_grad_steps} {memit.mom2_update_weight:g} {memit.clamp_norm_factor:g}"
        == expected["memit"]
    )
    assert (memit.v_lr, memit.v_weight_decay, memit.kl_factor, memit.v_loss_layer) == (0.5, 0.5, 0.0625, layers - 1)
    kn, mend = METHODS["kn"].hparams_for(model, layers), METHODS["mend"].hparams_for(model, layers)
    assert (kn.batch_size, kn.steps, kn.p, kn.refine) == (20, 20, 0.4, False)
    assert kn.adaptive_threshold == (0.2 if model == "gpt2-xl" else 0.1)
    assert (mend.layers, mend.lr_scale) == (tuple(range(layers - 3, layers)), 1.0)
    assert mend.inner_order[0] == ("mlp_down" if model == "gpt2-xl" else "mlp_up")


@pytest.mark.parametrize("method", METHODS)
def test_every_hyperparameter_says_what_it_is(method) -> None:
    """One sentence each."""
    hparams = METHODS[method].hparams_for("gpt2-xl", 48)
    for field in msgspec.inspect.type_info(type(hparams)).fields:
        described = field.type.extra_json_schema if isinstance(field.type, msgspec.inspect.Metadata) else None
        assert described and described["description"].endswith("."), f"{method}: {field.name} has no sentence"


@pytest.mark.parametrize(
    ("method", "content", "says"),
    [
        ("memit", {"layers": [3, 1]}, "must rise"),
        ("memit", {"layers": []}, "length >= 1"),
        ("memit", {"v_loss_layer": 0, "layers": [1, 2]}, "lies below the edited layer"),
        ("memit", {"mom2_update_weight": 0}, "> 0"),
        ("ft", {"norm_constraint": True}, "norm_constraint must be a number above zero"),
        ("ft", {"norm_constraint": -1.0}, "norm_constraint must be a number above zero"),
        ("ft", {"kl_factor": 0.1}, "<= 0"),
        ("kn", {"adaptive_threshold": 1.5}, "< 1"),
        ("mend", {"layers": [6]}, "layer 6 is not in this model"),
        ("rome", {"fact_token": "first"}, "fact_token"),
    ],
)
def test_bad_hyperparameters(method, content, says, tmp_path) -> None:
    (tmp_path / "h.json").write_text(json.dumps(content))
    with pytest.raises(SettingError, match=says):
        METHODS[method].hparams_for("tiny-gpt2", 6, tmp_path / "h.json")


def test_published_values() -> None:
    """The protocol's table, transcribed."""
    for model, layers, layer in (("gpt2-xl", 48, 17), ("gpt-j", 28, 5)):
        found = METHODS["rome"].hparams_for(model, layers)
        assert (found.layer, found.v_loss_layer, found.v_num_grad_steps, found.v_lr) == (layer, layers - 1, 20, 0.5)
        assert (found.v_weight_decay, found.clamp_norm_factor, found.kl_factor) == (0.5, 4, 0.0625)
        assert found.context_template_length_params == ((5, 10), (10, 10))


def test_hyperparameters_override_and_hash(reference, tmp_path) -> None:
    found = METHODS["rome"].hparams_for("tiny-gpt2", 6, reference / "rome_B" / "hparams_tiny-gpt2.json")
    assert (found.layer, found.v_num_grad_steps, found.clamp_norm_factor) == (0, 60, 12)
    assert hparams_hash(found) != hparams_hash(METHODS["rome"].hparams_for("tiny-gpt2", 6))
    assert hparams_hash(found) == hparams_hash(
        METHODS["rome"].hparams_for("other", 6, reference / "rome_B" / "hparams_tiny-gpt2.json")
    )
    for content, says in (
        ({"v_learning_rate": 1}, "unknown field `v_learning_rate`"),
        ({"v_lr": "fast"}, r"Expected `float`.*v_lr"),
        ({"layers": [6]}, "layer 6 is not in this model of 6 layers"),
        ({"v_num_grad_steps": 0}, ">= 1"),
        ([1], "expected a JSON object"),
        ({"v_lr": 1e308}, "<= 1000"),
        ({"v_lr": -0.5}, "> 0"),
        ({"v_lr": True}, "got `bool`"),
        ({"v_num_grad_steps": True}, "got `bool`"),
        ({"v_num_grad_steps": 10**30}, "<= 100000"),
        ({"clamp_norm_factor": 1e300}, "<= 1000000"),
        ({"kl_factor": -1}, ">= 0"),
        ({"v_weight_decay": 1e200}, "<= 1000000"),
        ({"context_template_length_params": [[-5, 10]]}, ">= 1"),
        ({"context_template_length_params": [[5, 10**9]]}, "<= 1000"),
        ({"layers": [10**30]}, "is not in this model"),
    ):
        (tmp_path / "h.json").write_text(json.dumps(content))
        with pytest.raises(SettingError, match=says):
            METHODS["rome"].hparams_for("tiny-gpt2", 6, tmp_path / "h.json")
    for written in ('{"v_lr": NaN}', '{"v_lr": 1e400}', '{"v_lr": Infinity}'):
        (tmp_path / "h.json").write_text(written)
        with pytest.raises(FactError, match="is not valid JSON"):
            METHODS["rome"].hparams_for("tiny-gpt2", 6, tmp_path / "h.json")
    for limit in (-1, 0, 1e300, True):
        (tmp_path / "h.json").write_text(json.dumps({"norm_constraint": limit}))
        with pytest.raises(SettingError, match="must be a number above zero and at most 1e"):
            METHODS["ft"].hparams_for("tiny-gpt2", 6, tmp_path / "h.json")
