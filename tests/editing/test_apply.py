"""An edited model as a folder: transformers' logits are those of the decoder under the edits, in every family."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_llama
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from artifact.editing.apply import CARD, check_place, total, write_model
from artifact.editing.edit import Dense, Edit, LowRank, added_up, row_edits
from artifact.editing.edit_file import read_edits, write_edit
from artifact.errors import ArtifactError, EditError, ModelError, RunError, SettingError
from artifact.lm.load import LanguageModel, load_folder
from artifact.lm.weights import stored_tensors
from artifact.sources.catalogue import WORLD

NAMES = ("tiny-gpt2", "tiny-gptj", "llama", "tied llama", "world")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Callable[[str], LanguageModel]:
    def get(name: str) -> LanguageModel:
        if name == "world":
            return load_folder(WORLD, name="world")
        if "llama" in name:
            module = tiny_llama.llama_module(tie_word_embeddings=name == "tied llama")
            return load_folder(tiny_llama.write_folder(tmp_path_factory.mktemp("llama"), module))
        return load_folder(reference / "models" / name)

    return get


def edit_of(model: LanguageModel, layers: tuple[int, ...], size: float = 0.05, seed: int = 0) -> Edit:
    """A random change of the down-projections, with the bias where there is one."""
    torch.manual_seed(seed)
    decoder, found = model.decoder, {}
    for layer in layers:
        name = decoder.family.name("mlp_down", layer)
        shape = decoder.weights[f"{name}.weight"].shape
        inputs, outputs = shape if decoder.family.input_first else shape[::-1]
        bias = torch.randn(outputs) * size if f"{name}.bias" in decoder.weights else None
        found[name] = Dense(torch.randn(inputs, outputs) * size, bias)
    return Edit(found)


def files_of(model: LanguageModel, edits: list[Edit], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.safetensors" for number in range(len(edits))]
    for path, edit in zip(paths, edits, strict=True):
        write_edit(path, edit, model, {"method": "ft", "cases": "7", "moments": "/home/me/moments"})
    return paths


def logits(model: LanguageModel, ids_BT: torch.Tensor, edit: Edit) -> torch.Tensor:
    decoder = model.decoder
    with torch.no_grad():
        hidden_BTD = decoder.embed(decoder.words(ids_BT))
        return decoder.logits(decoder.blocks(hidden_BTD, edits=row_edits([edit], [0] * len(ids_BT))))


@pytest.mark.parametrize("name", NAMES)
def test_transformers_computes_what_the_decoder_does_under_the_edits(name, base, tmp_path) -> None:
    """Two edits, of one layer and of two, add up; tied weights stay tied; the base stays as it was."""
    model = base(name)
    before, hashed = {p: p.read_bytes() for p in model.folder.iterdir()}, model.weights_hash()
    edits = [edit_of(model, (1,)), edit_of(model, (0, 1), seed=1)]
    edit, files = read_edits(files_of(model, edits, tmp_path), model)
    changed = write_model(tmp_path / "out", model, edit, files, float32=name == "world")
    module, told = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    ids_BT = torch.randint(0, model.decoder.embedding_VD.shape[0], (3, 9))
    with torch.no_grad():
        found = module.eval()(ids_BT).logits
    expected = logits(model, ids_BT, edit)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, logits(model, ids_BT, edits[0]), atol=1e-2)
    tied = module.get_input_embeddings().weight.data_ptr() == module.get_output_embeddings().weight.data_ptr()
    assert tied == (name in ("tiny-gpt2", "tied llama", "world"))
    assert set(changed) == set(edit.tensors(model.decoder)) and model.weights_hash() == hashed
    assert before == {p: p.read_bytes() for p in model.folder.iterdir()}
    again = load_folder(tmp_path / "out")
    torch.testing.assert_close(logits(again, ids_BT, Edit({})), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_and_what_it_rounds_away_is_measured(dtype, base, reference, tmp_path) -> None:
    """The world is stored in float16; the other is made from a folder of float32."""
    source = WORLD if dtype == "float16" else tmp_path / "half"
    if dtype == "bfloat16":
        source.mkdir()
        for file in (reference / "models" / "tiny-gpt2").iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        weights = load_file(source / "model.safetensors")
        save_file({key: weight.bfloat16() for key, weight in weights.items()}, source / "model.safetensors")
    model = load_folder(source)
    edit = edit_of(model, (1,), size=0.02)
    changed = write_model(tmp_path / "out", model, edit)
    written, was = load_file(tmp_path / "out" / "model.safetensors"), load_file(source / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {getattr(torch, dtype)}
    asked = edit.tensors(model.decoder)
    error = {key: written[key].double() - was[key].double() - asked[key].double() for key in asked}
    for key, one in changed.items():
        assert one.dtype == dtype and one.asked == pytest.approx(float(asked[key].double().norm()))
        assert one.error == pytest.approx(float(error[key].norm())) and 0 < one.error < 0.1 * one.asked
        assert one.stored == pytest.approx(float((written[key].double() - was[key].double()).norm()))
    assert total(changed).asked == pytest.approx(edit.norm())
    stored = {key: (written[key].double() - was[key].double()).float() for key in asked}
    name = model.decoder.family.name("mlp_down", 1)
    ids_BT = torch.randint(0, 500, (2, 9))
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = module(ids_BT).logits
    kept = Edit({name: Dense(stored[f"{name}.weight"], stored[f"{name}.bias"])})
    torch.testing.assert_close(found, logits(model, ids_BT, kept), rtol=1e-4, atol=1e-4)


def test_a_change_of_which_nothing_is_left_is_refused(base, tmp_path) -> None:
    model = base("world")
    name = model.decoder.family.name("mlp_down", 1)
    weight_IO = torch.zeros_like(model.decoder.weights[f"{name}.weight"])
    weight_IO[0, 0] = 1e-6 * model.decoder.weights[f"{name}.weight"][0, 0]
    edit = Edit({name: Dense(weight_IO)})
    with pytest.raises(EditError, match="left after rounding to float16; .* or --float32"):
        write_model(tmp_path / "out", model, edit)
    assert not (tmp_path / "out").exists()
    write_model(tmp_path / "out", model, edit, float32=True)
    assert {one.dtype for one in stored_tensors(tmp_path / "out").values()} == {"float32"}


def test_large_weights_go_into_shards(base, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("artifact.editing.apply.SHARD", 300_000)
    model = base("tiny-gptj")
    edit = edit_of(model, (2,))
    write_model(tmp_path / "out", model, edit)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    ids_BT = torch.randint(0, 500, (2, 9))
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(ids_BT).logits
    torch.testing.assert_close(found, logits(model, ids_BT, edit), rtol=1e-4, atol=1e-4)


def test_a_pickle_with_bare_names_becomes_safetensors_with_transformers_names(base, reference, tmp_path) -> None:
    """As the hub's older GPT-2 files are: no prefix, causal masks beside the weights, a head that is the embedding."""
    tiny = reference / "models" / "tiny-gpt2"
    (tmp_path / "base").mkdir()
    for file in tiny.glob("*.json"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    weights = load_file(tiny / "model.safetensors")
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    bare |= {"lm_head.weight": weights["transformer.wte.weight"], "h.0.attn.bias": torch.ones(1, 1, 8, 8)}
    torch.save(bare, tmp_path / "base" / "pytorch_model.bin")
    model = load_folder(tmp_path / "base")
    edit = edit_of(model, (1,))
    write_model(tmp_path / "out", model, edit)
    written, deltas = load_file(tmp_path / "out" / "model.safetensors"), edit.tensors(model.decoder)
    assert written.keys() == weights.keys() and not (tmp_path / "out" / "pytorch_model.bin").exists()
    for name, weight in weights.items():
        torch.testing.assert_close(written[name], weight + deltas.get(name, torch.zeros(())))


def test_the_card_says_what_was_done_and_no_path(base, tmp_path) -> None:
    model = base("world")
    edit, files = read_edits(files_of(model, [edit_of(model, (1,))], tmp_path), model)
    write_model(tmp_path / "out", model, edit, files)
    card = (tmp_path / "out" / CARD).read_text()
    said = ("license: mit", "method: `ft`", "cases: `7`", model.weights_sha256, model.revision, "mlp.c_proj.weight")
    assert all(one in card for one in said)
    assert str(tmp_path) not in card and "/home/me" not in card


def test_files_of_a_licence_go_with_the_model_and_a_umask_holds(base, tmp_path, reference) -> None:
    (tmp_path / "base").mkdir()
    for file in (reference / "models" / "tiny-gpt2").iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    for name in ("LICENSE", "Notice.txt", "notes.txt", "README.md"):
        (tmp_path / "base" / name).write_text(name)
    config = json.loads((tmp_path / "base" / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    model = load_folder(tmp_path / "base")
    tmp_path.chmod(0o777)
    before = os.umask(0o027)
    try:
        write_model(tmp_path / "out", model, edit_of(model, (1,)), float32=True)
    finally:
        os.umask(before)
    names = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "Notice.txt"} < names.keys() and "notes.txt" not in names
    assert set(names.values()) == {0o640} and (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert "see the base model" in (tmp_path / "out" / CARD).read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


def test_nothing_is_left_of_a_folder_that_cannot_be_written(base, tmp_path, monkeypatch) -> None:
    model = base("tiny-gpt2")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_model(tmp_path / "out", model, edit_of(model, (1,)))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_process_made_meanwhile_is_said(base, tmp_path, monkeypatch) -> None:
    model = base("tiny-gpt2")

    def other(*_: object, **__: object) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / CARD).write_text("another")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", other)
    with pytest.raises(RunError, match="made by another process"):
        write_model(tmp_path / "out", model, edit_of(model, (1,)))
    assert (tmp_path / "out" / CARD).read_text() == "another"


def test_places_that_are_refused(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    check_place(tmp_path / "empty")
    check_place(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for place, says in {
        "full": "not empty", "full/file": "not a folder", "link": "not a folder", "full/file/x": "Not a directory",
        "x" * 300: "too long",
    }.items():  # fmt: skip
        with pytest.raises(ArtifactError, match=says):
            check_place(tmp_path / place)
    with pytest.raises(SettingError, match="inside the model's own folder"):
        check_place(tmp_path / "full" / "new", tmp_path / "full")


def test_a_model_that_is_in_memory_alone_has_no_folder_to_write_it_from(base, tmp_path) -> None:
    loaded = base("tiny-gpt2")
    model = LanguageModel("made here", "none", loaded.decoder, loaded.tokens)
    with pytest.raises(ModelError, match="not read from a folder"):
        write_model(tmp_path / "out", model, edit_of(model, (1,)))


def test_edits_add_up_and_those_that_cancel_out_are_refused(base, tmp_path) -> None:
    model = base("tiny-gpt2")
    one = edit_of(model, (1, 2))
    name = model.decoder.family.name("mlp_down", 1)
    low = Edit({name: LowRank(torch.randn(256, 2), torch.randn(2, 64))})
    both = added_up([one, low, low])
    torch.testing.assert_close(
        both.changes[name].weight_IO, one.changes[name].weight_IO + 2 * low.changes[name].dense()
    )
    assert both.changes[name].bias_O is one.changes[name].bias_O and both.changes.keys() == one.changes.keys()
    back = Edit({key: Dense(-change.weight_IO, -change.bias_O) for key, change in one.changes.items()})
    paths = files_of(model, [one, back], tmp_path)
    assert read_edits([], model) == (None, [])
    with pytest.raises(EditError, match="cancel out"):
        read_edits(paths, model)
    huge = Edit({key: Dense(torch.full_like(change.weight_IO, 2e38)) for key, change in one.changes.items()})
    with pytest.raises(EditError, match="together they are not finite"):
        read_edits(files_of(model, [huge, huge], tmp_path), model)


@pytest.mark.parametrize("shares", ["two names", "one buffer"])
def test_weights_that_share_their_memory_are_all_written(shares: str, base, tmp_path) -> None:
    """As torch.save keeps tied modules, or the parts of one flat buffer."""
    tensors = {name: one.read() for name, one in stored_tensors(base("llama").folder).items()}
    if shares == "two names":
        for name in list(tensors):
            if ".layers.1.mlp." in name:
                tensors[name] = tensors[name.replace(".1.", ".0.")]
    else:
        flat = torch.cat([one.flatten() for one in tensors.values()])
        parts = flat.split([one.numel() for one in tensors.values()])
        tensors = {name: part.view(one.shape) for (name, one), part in zip(tensors.items(), parts, strict=True)}
    folder = tmp_path / "shared"
    shutil.copytree(base("llama").folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    torch.save(tensors, folder / "pytorch_model.bin")
    model = load_folder(folder)
    edit = edit_of(model, (0,))
    write_model(tmp_path / "made", model, edit, [])
    written = stored_tensors(tmp_path / "made")
    assert written.keys() == tensors.keys()
    ids_BT = torch.arange(6)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    torch.testing.assert_close(again(ids_BT).logits, logits(model, ids_BT, edit), rtol=1e-4, atol=1e-4)
