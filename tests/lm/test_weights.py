"""Weights from files: every way to store them gives transformers' logits; what does not fit is refused by name."""

import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import byte_tokenizer, llama_module
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

from artifact.errors import ModelError
from artifact.lm import load as module_of_load
from artifact.lm.load import LanguageModel, load_folder

Tensors = dict[str, torch.Tensor]
VOCABULARY = 400
LAYERS = 2


def made(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_layer": LAYERS, "n_head": 2, "n_embd": 16, "n_positions": 32}
    shape |= {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**shape | options)).eval()
    if family == "gptj":
        return GPTJForCausalLM(GPTJConfig(**shape | {"rotary_dim": 4} | options)).eval()
    return llama_module(num_hidden_layers=LAYERS, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family, untied but for GPT-2."""
    found = {}
    for family in ("gpt2", "gptj", "llama"):
        found[family] = tmp_path_factory.mktemp(family) / "model"
        made(family).save_pretrained(found[family])
        byte_tokenizer().save_pretrained(found[family])
    return found


@pytest.fixture(params=["gpt2", "gptj", "llama"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    return copied(folders[request.param], tmp_path)


@pytest.fixture
def gpt2(folders: dict[str, Path], tmp_path: Path) -> Path:
    return copied(folders["gpt2"], tmp_path)


def copied(source: Path, tmp_path: Path) -> Path:
    """Links to the folder's files, as the hub's cache has them."""
    out = tmp_path / "copy"
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).symlink_to(file)
    return out


def weights_of(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: Tensors) -> None:
    (folder / "model.safetensors").unlink()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


def reconfigure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | changes))


@torch.no_grad()
def logits(model: LanguageModel) -> torch.Tensor:
    decoder = model.decoder
    ids_BT = torch.arange(20).view(2, 10)
    return decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT))))


@torch.no_grad()
def expected(folder: Path) -> torch.Tensor:
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return module(torch.arange(20).view(2, 10)).logits


def bare(folder: Path) -> None:
    """Names as in a file of the base model: the hub's GPT-2 is one."""
    tensors = weights_of(folder)
    rewrite(folder, {name.removeprefix("transformer.").removeprefix("model."): one for name, one in tensors.items()})


def with_buffers(folder: Path) -> None:
    """What older versions wrote beside the weights."""
    tensors = weights_of(folder)
    for layer in range(LAYERS):
        if any(name.startswith("model.") for name in tensors):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        else:
            tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool)
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    rewrite(folder, tensors)


def sharded(folder: Path) -> None:
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    listed = {}
    for number, name in enumerate(sorted(tensors)):
        listed[name] = f"model-{number % 3}.safetensors"
    for file in set(listed.values()):
        save_file({name: tensors[name] for name in tensors if listed[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def pickled(folder: Path, legacy: bool = False) -> None:
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


def pickled_shards(folder: Path) -> None:
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    listed = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(sorted(tensors))}
    for file in set(listed.values()):
        torch.save({name: tensors[name] for name in tensors if listed[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": listed}))


STORED: dict[str, Callable[[Path], None]] = {
    "as saved": lambda folder: None,
    "without prefix": bare,
    "with buffers": with_buffers,
    "sharded": sharded,
    "pickled": pickled,
    "legacy pickle": lambda folder: pickled(folder, legacy=True),
    "pickled shards": pickled_shards,
}


@pytest.mark.parametrize("way", STORED)
def test_every_way_gives_transformers_logits(folder: Path, way: str) -> None:
    wanted, first = expected(folder), load_folder(folder)
    STORED[way](folder)
    model = load_folder(folder)
    assert torch.equal(logits(model), logits(first))
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    assert model.weights_hash() == first.weights_hash()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_files_of_other_types_are_cast(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, {name: one.to(dtype) for name, one in weights_of(folder).items()})
    model = load_folder(folder)
    assert model.decoder.dtype == torch.float32
    torch.testing.assert_close(logits(model), expected(folder), rtol=1e-4, atol=1e-4)
    assert load_folder(folder, dtype=torch.float16).decoder.dtype == torch.float16


@pytest.mark.parametrize("tied", [True, False])
def test_the_tie_is_what_the_file_says(folder: Path, tied: bool) -> None:
    """A head of its own is used, one that equals the embedding is dropped, whatever the configuration says."""
    reconfigure(folder, tie_word_embeddings=tied)
    tensors = weights_of(folder)
    embedding = next(value for name, value in tensors.items() if name.endswith(("wte.weight", "embed_tokens.weight")))
    rewrite(folder, tensors | {"lm_head.weight": embedding.clone()})
    model = load_folder(folder)
    assert model.decoder.head_VD is model.decoder.embedding_VD and "lm_head.weight" not in model.decoder.weights
    rewrite(folder, tensors | {"lm_head.weight": embedding + 0.1 * torch.randn(embedding.shape)})
    model = load_folder(folder)
    assert not torch.equal(model.decoder.head_VD, model.decoder.embedding_VD)
    torch.testing.assert_close(logits(model), expected(folder), rtol=1e-4, atol=1e-4)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {other: one for other, one in tensors.items() if other != name}


WEIGHT = "transformer.h.1.mlp.c_fc.weight"
REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (without(WEIGHT), rf"{WEIGHT} is missing from its files; expected the tensors of a gpt2 model"),
    "renamed": (
        lambda tensors: {name.replace("ln_f", "ln_g"): one for name, one in tensors.items()},
        r"ln_f.weight, transformer.ln_f.bias are missing from its files; transformer.ln_g.bias, .* are not expected",
    ),
    "more": (lambda tensors: tensors | {"score.weight": torch.ones(2, 16)}, "score.weight is not expected"),
    "more layers": (
        lambda tensors: tensors | {name.replace("h.1.", "h.2."): one.clone() for name, one in tensors.items()},
        r"transformer.h.2.attn.c_attn.bias, .* and 9 more are not expected; .* with 2 layers",
    ),
    "fewer layers": (
        lambda tensors: {name: one for name, one in tensors.items() if ".h.1." not in name},
        r"transformer.h.1.ln_1.weight, .* and 9 more are missing",
    ),
    "other prefix": (
        lambda tensors: {f"module.{name}": one for name, one in tensors.items()},
        r"transformer.wte.weight, .* are missing from its files; module.transformer",
    ),
    "shape": (lambda t: t | {WEIGHT: t[WEIGHT].T}, r"c_fc.weight has the shape \(64, 16\), .* says \(16, 64\)"),
    "integers": (lambda t: t | {WEIGHT: t[WEIGHT].int()}, "c_fc.weight is of type I32; expected bfloat16, float16"),
    "bool": (lambda t: t | {WEIGHT: t[WEIGHT] > 0}, "c_fc.weight is of type BOOL; expected bfloat16, float16"),
    "NaN": (lambda t: t | {WEIGHT: t[WEIGHT].index_fill(0, torch.tensor([7]), torch.nan)}, "c_fc.weight holds values"),
    "infinite": (lambda t: t | {WEIGHT: t[WEIGHT] / 0}, f"{WEIGHT} holds values that are NaN or infinite"),
    "too large": (lambda t: t | {WEIGHT: t[WEIGHT].double() * 1e300}, "holds values that are too large for float32"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("way", ["as saved", "pickled", "sharded"])
def test_what_does_not_fit_is_refused_by_name(gpt2: Path, kind: str, way: str) -> None:
    change, says = REFUSED[kind]
    rewrite(gpt2, change(weights_of(gpt2)))
    STORED[way](gpt2)
    says = says.replace("I32", "int32").replace("BOOL", "bool") if way == "pickled" else says
    with pytest.raises(ModelError, match=says) as error:
        load_folder(gpt2)
    assert "\n" not in str(error.value)


def test_a_missing_head_where_it_is_not_tied(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path)
    rewrite(folder, without("lm_head.weight")(weights_of(folder)))
    with pytest.raises(ModelError, match=r"lm_head.weight is missing from its files"):
        load_folder(folder)
    reconfigure(folder, tie_word_embeddings=True)
    load_folder(folder)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/../../b", "", ".", "..", "a\x1b[2Jb"])
def test_an_index_stays_inside_its_folder(gpt2: Path, file: str) -> None:
    tensors = weights_of(gpt2)
    save_file(tensors, gpt2.parent / "outside.safetensors")
    (gpt2 / "model.safetensors").unlink()
    index = gpt2 / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, file)}))
    with pytest.raises(ModelError, match=r"which is not inside the folder|is missing; add it") as error:
        load_folder(gpt2)
    assert str(error.value).isprintable()


def test_damaged_indexes(gpt2: Path) -> None:
    index = gpt2 / "model.safetensors.index.json"
    sharded(gpt2)
    good = json.loads(index.read_text())["weight_map"]
    for content, says in (
        ("[]", "is not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        (json.dumps({"weight_map": good | {"more.weight": "model-0.safetensors"}}), "more.weight is named by"),
        (
            json.dumps({"weight_map": good | {WEIGHT: "model-9.safetensors"}}),
            "model-9.safetensors, which .* missing",
        ),
    ):
        index.write_text(content)
        with pytest.raises(ModelError, match=says):
            load_folder(gpt2)
    tensors = load_file(gpt2 / "model-0.safetensors") | load_file(gpt2 / "model-1.safetensors")
    save_file(tensors, gpt2 / "model-0.safetensors")
    index.write_text(json.dumps({"weight_map": good}))
    with pytest.raises(ModelError, match=r"are in two of the files that"):
        load_folder(gpt2)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Evil(), "cannot be read as weights"),
        ({"transformer.wte.weight": Evil()}, "cannot be read as weights"),
        ([torch.ones(2)], "holds no tensors by name"),
        ({"state_dict": {"a": torch.ones(2)}}, "state_dict is not a tensor"),
        ({3: torch.ones(2)}, "3 is not a tensor"),
        ({"a": torch.ones(2).to_sparse()}, "a is not stored whole"),
        ({"a": torch.ones(2, device="meta")}, "a is not stored whole"),
        ({"a": torch.ones(1).expand(10**6)}, "a is not stored whole"),
    ],
)
def test_pickles_that_hold_more_than_tensors(gpt2: Path, content: Any, says: str) -> None:
    (gpt2 / "model.safetensors").unlink()
    torch.save(content, gpt2 / "pytorch_model.bin")
    with pytest.raises(ModelError, match=says):
        load_folder(gpt2)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_torch_says_nothing_of_a_pickle_of_another_protocol(gpt2: Path, archive: bool) -> None:
    tensors = load_file(gpt2 / "model.safetensors")
    (gpt2 / "model.safetensors").unlink()
    file = gpt2 / "pytorch_model.bin"
    torch.save(tensors, file, pickle_protocol=4, _use_new_zipfile_serialization=archive)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with suppress(ModelError):
            load_folder(gpt2)
    assert not said


def test_what_only_has_the_name_of_weights_is_not_hashed(gpt2: Path) -> None:
    before = load_folder(gpt2).revision
    (gpt2 / "older.safetensors").mkdir()
    os.mkfifo(gpt2 / "pipe.safetensors")
    assert load_folder(gpt2).revision == before


def test_no_weights(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights; expected model.safetensors or pytorch_model.bin"):
        load_folder(gpt2)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.lm.device.host_memory", lambda: 1000)
    monkeypatch.setattr(module_of_load, "placed", lambda *_: pytest.fail("read"))
    with pytest.raises(ModelError, match="of host memory in bfloat16, and 0.0 MB are free"):
        load_folder(gpt2, dtype=torch.bfloat16)


def test_the_decoder_does_not_change_with_its_file(gpt2: Path) -> None:
    model = load_folder(gpt2)
    before = model.weights_hash()
    path = (gpt2 / "model.safetensors").resolve()
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100] + bytes(len(content) - 100))
        assert model.weights_hash() == before
    finally:
        path.write_bytes(content)
