"""The parts of an edit: its file, hyperparameters, prefixes and moments."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from artifact.editing.edit import Edit, LowRank, read_edit
from artifact.editing.hparams import hparams_for, hparams_hash
from artifact.editing.moments import compute_moments, read_moments
from artifact.editing.prefixes import draw_prefixes, read_prefixes, sample
from artifact.errors import EditError, SettingError
from artifact.evaluation.score import score_cases


def an_edit(model, scale: float = 1.0) -> Edit:
    name = model.decoder.family.name("mlp_down", 1)
    generator = torch.Generator().manual_seed(0)
    left_IR = torch.randn(256, 1, generator=generator) / 16
    return Edit({name: LowRank(left_IR * scale, torch.randn(1, 64, generator=generator))})


def test_an_edit_scores_the_same_from_its_file(model, facts, tmp_path) -> None:
    edit = an_edit(model)
    save_file(edit.tensors(model.decoder), tmp_path / "edit.safetensors")
    again = read_edit(tmp_path / "edit.safetensors", model.decoder)
    direct = score_cases(model, [facts[0]], [edit])[0].views["entity"].prompts["reliability"][0]
    read = score_cases(model, [facts[0]], again)[0].views["entity"].prompts["reliability"][0]
    unedited = score_cases(model, [facts[0]])[0].views["entity"].prompts["reliability"][0]
    assert read.target_new == pytest.approx(direct.target_new, abs=1e-5)
    assert abs(unedited.target_new - direct.target_new) > 1e-3


def test_bias_changes_are_read_too(model, tmp_path) -> None:
    name = model.decoder.family.name("mlp_down", 1)
    save_file({f"{name}.bias": torch.full((64,), 0.5)}, tmp_path / "edit.safetensors")
    change = read_edit(tmp_path / "edit.safetensors", model.decoder).changes[name]
    assert torch.equal(change.output(torch.randn(2, 3, 256)), torch.full((2, 3, 64), 0.5))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"transformer.h.9.mlp.c_proj.weight": torch.ones(256, 64)}, "no weight of this model"),
        ({"transformer.wte.weight": torch.ones(800, 64)}, "no weight of this model's blocks"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.ones(64, 256)}, r"of shape \(256, 64\), got \(64, 256\)"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.full((256, 64), float("nan"))}, "must be finite"),
    ],
)
def test_a_file_of_another_model_is_refused(tiny, tmp_path, tensors, says) -> None:
    save_file(tensors, tmp_path / "edit.safetensors")
    with pytest.raises(EditError, match=says):
        read_edit(tmp_path / "edit.safetensors", tiny("tiny-gpt2").decoder)


def test_bad_bytes_are_refused(tiny, tmp_path) -> None:
    (tmp_path / "edit.safetensors").write_bytes(b"not an edit")
    with pytest.raises(EditError, match="no readable safetensors file"):
        read_edit(tmp_path / "edit.safetensors", tiny("tiny-gpt2").decoder)
    with pytest.raises(EditError, match="no readable safetensors file"):
        read_edit(tmp_path / "absent.safetensors", tiny("tiny-gpt2").decoder)


def test_published_values() -> None:
    """PROTOCOL's table, transcribed."""
    for model, layers, layer in (("gpt2-xl", 48, 17), ("gpt-j", 28, 5)):
        found = hparams_for("rome", model, layers)
        assert (found.layer, found.v_loss_layer, found.v_num_grad_steps, found.v_lr) == (layer, layers - 1, 20, 0.5)
        assert (found.v_weight_decay, found.clamp_norm_factor, found.kl_factor) == (0.5, 4, 0.0625)
        assert found.context_template_length_params == ((5, 10), (10, 10))


def test_hyperparameters_override_and_hash(reference, tmp_path) -> None:
    found = hparams_for("rome", "tiny-gpt2", 6, reference / "rome_B" / "hparams_tiny-gpt2.json")
    assert (found.layer, found.v_num_grad_steps, found.clamp_norm_factor) == (0, 60, 12)
    assert hparams_hash(found) != hparams_hash(hparams_for("rome", "tiny-gpt2", 6))
    assert hparams_hash(found) == hparams_hash(
        hparams_for("rome", "other", 6, reference / "rome_B" / "hparams_tiny-gpt2.json")
    )
    for content, says in (
        ({"v_learning_rate": 1}, "unknown field `v_learning_rate`"),
        ({"v_lr": "fast"}, r"Expected `float`.*v_lr"),
        ({"layers": [6]}, "layer 6 is not in this model of 6 layers"),
        ({"v_num_grad_steps": 0}, ">= 1"),
        ([1], "expected a JSON object"),
    ):
        (tmp_path / "h.json").write_text(json.dumps(content))
        with pytest.raises(SettingError, match=says):
            hparams_for("rome", "tiny-gpt2", 6, tmp_path / "h.json")


def test_prefixes_are_seeded_and_end_in_the_prompts_place(model) -> None:
    templates = draw_prefixes(model, ((3, 2), (6, 2)))
    assert templates == draw_prefixes(model, ((3, 2), (6, 2)))
    assert templates[0] == "{}" and len(templates) == 5
    assert all(template.endswith(". {}") and template.count("{}") == 1 for template in templates[1:])


def test_sampling_equals_the_plain_way(model) -> None:
    """Stored keys and values give the draws that recomputing every prefix gives."""
    texts = sample(model, 3, 6, seed=5)
    generator = torch.Generator().manual_seed(5)
    decoder = model.decoder
    ids_BT = torch.full((3, 1), model.tokens.end_id)
    with torch.no_grad():
        for _ in range(6):
            logits_BV = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT)))[:, -1])
            logits_BV[:, model.tokens.end_id] = -torch.inf
            best = logits_BV.topk(5)
            pick = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
            ids_BT = torch.cat((ids_BT, best.indices.gather(1, pick)), 1)
    assert texts == [row[1:].tolist() for row in ids_BT]


def test_prefix_files(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(["{}", "Yes. {}"]))
    assert read_prefixes(path) == ["{}", "Yes. {}"]
    for bad in ([], ["no place"], [["{}"]], {"templates": 3}, "{}"):
        path.write_text(json.dumps(bad))
        with pytest.raises(SettingError, match="JSON list of templates"):
            read_prefixes(path)


def test_published_moments_from_any_folder_above(reference, tiny) -> None:
    model = tiny("tiny-gpt2")
    folder = reference / "moments" / "tiny-gpt2"
    expected = np.load(next(folder.rglob("transformer.h.2.*.npz")))
    matrix = read_moments(folder).matrix(model.decoder, 2)
    np.testing.assert_allclose(matrix, expected["mom2.mom2"].astype(np.float64) / expected["mom2.count"])
    assert torch.equal(matrix, read_moments(folder / "wikipedia_stats").matrix(model.decoder, 2))
    keys = torch.randn(3, 256, dtype=torch.float64)
    solved = read_moments(folder).solve(model.decoder, 2, keys)
    torch.testing.assert_close(solved @ matrix, keys)
    with pytest.raises(SettingError, match="no file transformer.h.5"):
        read_moments(folder).matrix(model.decoder, 5)
    with pytest.raises(SettingError, match="is no folder"):
        read_moments(folder / "absent")


def test_damaged_moments(tiny, tmp_path) -> None:
    path = tmp_path / "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz"
    path.write_bytes(b"PK damaged")
    with pytest.raises(SettingError, match="is no moment file"):
        read_moments(tmp_path).matrix(tiny("tiny-gpt2").decoder, 2)


def test_computed_moments_are_means_over_real_tokens(model) -> None:
    """Padding does not count, and batches do not matter: equal to one text at a time, from the whole pass."""
    texts = ["The capital of France is Paris", "The report said", "Yes"]
    decoder = model.decoder
    total, count = torch.zeros(256, 256, dtype=torch.float64), 0
    for text in texts:
        ids_BT = torch.tensor([model.tokens.ids(text)])
        with torch.no_grad():
            keys = decoder.run(decoder.words(ids_BT), keep=("key",)).outputs["key"][1][0].double()
        total, count = total + keys.t() @ keys, count + len(keys)
    found = compute_moments(model, [model.tokens.ids(text) for text in texts], (1,), "test").matrix(decoder, 1)
    torch.testing.assert_close(found, total / count, rtol=1e-5, atol=1e-6)
    ids = [model.tokens.ids(text) for text in texts]
    ridged = compute_moments(model, ids, (1,), "test", ridge=0.5).matrix(decoder, 1)
    torch.testing.assert_close(ridged - found, 0.5 * found.diagonal().mean() * torch.eye(256, dtype=torch.float64))
