"""Configuration and tokenizer are data: nothing of a folder runs, and what makes no sense is one line."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from artifact.cli import call
from artifact.errors import ModelError, PromptError
from artifact.lm.load import load_folder

TRACE = ("--prompt", "The capital of France is", "--subject", "France", "--samples", "1")


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    shutil.copytree(reference / "models" / "tiny-gpt2", tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_for_code_is_refused(
    folder: Path, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands on standard input, and whether or not its family is known."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass C: pass\n")
    auto_map = {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"], "AutoModelForCausalLM": "evil.C"}
    changed(folder / file, auto_map=auto_map)
    for model_type in ("gpt2", "evil"):
        changed(folder / "config.json", model_type=model_type)
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
        assert call(["trace", "--model", str(folder), *TRACE]) == 2
        error = capsys.readouterr().err
        assert "asks for code of its own (auto_map), which is never run" in error and error.count("\n") == 1
        assert sys.stdin.read() == "y\n" * 9
    assert not (folder / "ran").exists()


def test_copies_of_transformers_own_classes_are_not_asked_for(folder: Path) -> None:
    """Phi-3's folders name them; they are not run either. Any other class is refused."""
    named = {"AutoConfig": "configuration_gpt2.GPT2Config", "AutoModelForCausalLM": "modeling_gpt2.GPT2LMHeadModel"}
    # A tokenizer of the hub by its name, as Phi-4's, names no code.
    for own in (named, named | {"AutoTokenizer": "Xenova/gpt-4o"}):
        changed(folder / "config.json", auto_map=own)
        load_folder(folder)
    for other in (
        {"AutoConfig": "a.GPT2Config", "AutoModel": "b.Other"},
        {"AutoModel": ["b.GPT2Config"]},
        named | {"AutoTokenizer": "org/model--tokens.Other"},
        "GPT2Config",
    ):
        changed(folder / "config.json", auto_map=other)
        with pytest.raises(ModelError, match="asks for code of its own"):
            load_folder(folder)


def test_the_begin_token_is_the_one_that_the_configuration_names(tmp_path: Path) -> None:
    """As a Llama 3 folder, whose begin token is not its family's, with a tokenizer that does not put it first."""
    name = "<|begin_of_text|>"
    folder = tiny_llama.write_folder(tmp_path, tiny_llama.llama_module())
    tokenizer = tiny_llama.byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [name]})
    tokenizer.save_pretrained(folder)
    begin = tokenizer.convert_tokens_to_ids(name)
    assert load_folder(folder).tokens.notes == ()
    changed(folder / "config.json", bos_token_id=begin)
    (line,) = load_folder(folder).tokens.notes
    assert f"names the begin token {name!r}, and the tokenizer does not put it before a text" in line
    for other in ([1, 2], "x", True):
        changed(folder / "config.json", bos_token_id=other)
        assert load_folder(folder).tokens.notes == ()


ABSURD = {
    "n_layer": [0, -1, 10**12, 2.5, "6", True, None, [6], {}],
    "n_embd": [0, -64, 10**15, "64", 65],
    "n_head": [0, 3, -4, 10**9],
    "n_positions": [0, 10**18, -1],
    "vocab_size": [0, 10**13, -5, 801],
    "n_inner": [0, -1, 10**12],
    "layer_norm_epsilon": [0, -1e-5, "small", [1], 1e9],
    "model_type": ["bert", "", None, 3, ["gpt2"], "a" * 10_000],
    "tie_word_embeddings": ["yes", [1]],
    "activation_function": ["relu", 3],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ABSURD.items() for value in values])
def test_absurd_configurations_are_one_line(folder: Path, key: str, value: Any) -> None:
    changed(folder / "config.json", **{key: value})
    with pytest.raises(ModelError) as error:
        load_folder(folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 700 and "fetch it again" not in str(error.value)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"])
def test_sizes_by_their_other_names(folder: Path, key: str) -> None:
    changed(folder / "config.json", **{key: 10**15})
    with pytest.raises(ModelError, match=f"configuration {key} = 10+ is not possible"):
        load_folder(folder)


def test_sizes_that_the_files_do_not_hold_take_no_memory(folder: Path) -> None:
    changed(folder / "config.json", n_embd=10**6, n_head=1, n_inner=10**6, vocab_size=10**8, n_layer=9000)
    with pytest.raises(ModelError, match="more are missing from its files"):
        load_folder(folder)
    changed(folder / "config.json", n_layer=6)
    with pytest.raises(ModelError, match=r"has the shape \(800, 64\), .* says \(100000000, 1000000\)"):
        load_folder(folder)


def test_keys_that_make_lists_are_not_passed_on(folder: Path) -> None:
    changed(folder / "config.json", num_labels=10**15, pruned_heads=[1], dtype="import os", torch_dtype=3)
    load_folder(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not valid JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b'"gpt2"', "is not a JSON object"),
        (b'{"model_type": "gpt2"', "is not valid JSON"),
        (b'{"model_type": "\xff\xfe"}', "is not valid JSON"),
        (b"\x80\x04\x95", "is not valid JSON"),
        (b'{"n_embd": NaN}', "is not valid JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b" " * 16_000_001, "is larger than 16000000 bytes"),
        (b'{"auto_map": {"AutoConfig": "evil.C"}}', "asks for code of its own"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_what_is_not_a_configuration(folder: Path, content: bytes, says: str, file: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=says) as error:
        load_folder(folder)
    assert str(error.value).isprintable()


def test_quantised_configurations_are_refused(folder: Path) -> None:
    changed(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelError, match="quantised weights are not supported"):
        load_folder(folder)


def test_a_pipe_for_a_configuration_does_not_wait(folder: Path) -> None:
    for name, says in (("config.json", "holds no config.json"), ("model.safetensors", "holds no weights")):
        (folder / name).rename(folder / "kept")
        os.mkfifo(folder / name)
        with pytest.raises(ModelError, match=says):
            load_folder(folder)
        (folder / name).unlink()
        (folder / "kept").rename(folder / name)


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer; expected a tokenizer.json beside config.json"):
        load_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"[" * 5000])
def test_a_damaged_tokenizer_is_one_line(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="its tokenizer cannot be used") as error:
        load_folder(folder)
    assert str(error.value).isprintable()


def test_what_the_tokenizers_library_prints_reaches_no_terminal(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It names the fields that it does not know, as they are."""
    token = {"content": "<|endoftext|>", "\x1b[31mred": True}
    changed(folder / "tokenizer_config.json", added_tokens_decoder={"0": token})
    load_folder(folder)
    os.write(1, b"after")
    assert capfd.readouterr() == ("after", "")


def test_only_ids_that_the_model_has_are_used(folder: Path) -> None:
    """A token that was added to the tokenizer and not to the embedding: as if it were not there, but in a prompt."""
    before = load_folder(folder).tokens
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {"content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append({"id": 800, "special": True, **added})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    changed(folder / "tokenizer_config.json", pad_token="[PAD]")
    tokens = load_folder(folder).tokens
    assert (tokens.special_ids, tokens.special_texts) == (before.special_ids, before.special_texts)
    assert (tokens.document_id, tokens.end_id) == (before.document_id, before.end_id)
    assert tokens.encode("The capital of France is") == before.encode("The capital of France is")
    for ask in (tokens.encode, tokens.ids):
        with pytest.raises(PromptError, match=r"the word '\[PAD\]' in .*'s id 800, and the model has 800 rows"):
            ask("The capital [PAD] is")


def test_a_vocabulary_smaller_than_the_embedding_is_fine(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    del vocabulary[last]
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in tokenizer["model"]["merges"]]
    tokenizer["model"]["merges"] = [" ".join(merge) for merge in merges if "".join(merge) != last]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_folder(folder).decoder.embedding_VD.shape[0] == 800


def test_the_tokenizers_hash_is_of_its_files(folder: Path) -> None:
    first = load_folder(folder)
    assert first.tokenizer_sha256 == load_folder(folder).tokenizer_sha256 != ""
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + "\n")
    other = load_folder(folder)
    assert other.tokenizer_sha256 != first.tokenizer_sha256 and other.revision == first.revision
