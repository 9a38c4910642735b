"""kloc apply, generate, and score with several edits, as a user types them."""

import json
import os
from pathlib import Path

import pytest
import tiny_llama
import torch
from safetensors.torch import save_file

from artifact.cli import call
from artifact.lm.load import load_folder

REFERENCE = Path(__file__).parent / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"
FACTS = REFERENCE / "facts.json"
DOWN = "transformer.h.1.mlp.c_proj.weight"


def kloc(*words: object) -> int:
    return call([str(word) for word in words])


def edits(folder: Path, model: Path, parameter: str, count: int = 2, **about: str) -> list[Path]:
    loaded = load_folder(model)
    torch.manual_seed(0)
    shape = loaded.decoder.weights[parameter].shape
    paths = [folder / f"{number}.safetensors" for number in range(count)]
    for path in paths:
        save_file({parameter: torch.randn(shape) / 20}, path, {"weights_sha256": loaded.weights_sha256} | about)
    return paths


@pytest.fixture(scope="module", params=["tiny-gpt2", "tiny-gptj", "llama"])
def edited(request, tmp_path_factory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("edited")
    if request.param == "llama":
        model = tiny_llama.write_folder(folder / "model", tiny_llama.llama_module())
        return model, edits(folder, model, "model.layers.1.mlp.down_proj.weight")
    parameter = DOWN if request.param == "tiny-gpt2" else "transformer.h.1.mlp.fc_out.weight"
    return REFERENCE / "models" / request.param, edits(folder, REFERENCE / "models" / request.param, parameter)


def numbers(path: Path) -> list[float]:
    prompts = [
        prompt
        for case in json.loads(path.read_text())["cases"]
        for view in ("entity", "relation")
        for group in ("reliability", "generality", "specificity")
        for prompt in case[view][group]["prompts"]
    ]
    return [prompt[side] for prompt in prompts for side in ("target_new", "target_true")]


def test_a_written_model_scores_and_speaks_as_the_model_under_its_edits(edited, tmp_path, capsys) -> None:
    model, (one, other) = edited
    out, under, written = tmp_path / "out", tmp_path / "under.json", tmp_path / "written.json"
    assert kloc("apply", "--model", model, "--edit", one, "--edit", other, "--out", out) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    assert kloc("score", "--model", model, "--cases", FACTS, "--edit", one, other, "--json", under) == 0
    assert f"edited by {one.name}, {other.name}" in capsys.readouterr().out
    assert kloc("score", "--model", out, "--cases", FACTS, "--json", written) == 0
    assert numbers(written) == pytest.approx(numbers(under), abs=1e-4)
    assert kloc("score", "--model", model, "--cases", FACTS, "--edit", one, "--json", written) == 0
    assert numbers(written) != pytest.approx(numbers(under), abs=1e-2)
    capsys.readouterr()
    texts = [tmp_path / "a.json", tmp_path / "b.json"]
    words = ("generate", "--prompt", "The capital of France is", "--tokens", 12)
    assert kloc(*words, "--model", model, "--edit", one, other, "--json", texts[0]) == 0
    assert kloc(*words, "--model", out, "--json", texts[1]) == 0
    said = [json.loads(text.read_text()) for text in texts]
    assert said[0]["ids"] == said[1]["ids"] and said[0]["edits"] == [one.name, other.name]
    assert capsys.readouterr().out.startswith("The capital of France is")


def test_text_from_outside_is_printed_escaped(tmp_path, capsys) -> None:
    assert kloc("generate", "--model", TINY, "--prompt", "a\x1b[31m\nred", "--tokens", 1) == 0
    assert capsys.readouterr().out.startswith(r"a\x1b[31m\nred")


def test_half_precision_is_said_in_one_line(tmp_path, capsys) -> None:
    (path,) = edits(tmp_path, REFERENCE.parent.parent / "artifact/facts/data/world", DOWN, 1)
    assert kloc("apply", "--model", "world", "--edit", path, "--out", tmp_path / "out") == 0
    assert "stored in float16: norm " in capsys.readouterr().out
    assert kloc("apply", "--model", "world", "--edit", path, "--out", tmp_path / "wide", "--float32") == 0
    assert "stored in" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_edit_made_in_another_type_is_applied_in_that_type(dtype: str, tmp_path, capsys) -> None:
    """An edit names the weights that it was made for, and these are the type's."""
    (record, *_) = json.loads(FACTS.read_text())
    (tmp_path / "request.json").write_text(json.dumps([record]))
    edit, out = tmp_path / "edit.safetensors", tmp_path / "out"
    asked = ("--model", TINY, "--method", "ft", "--request", tmp_path / "request.json", "--dtype", dtype)
    assert kloc("edit", *asked, "--out", edit) == 0
    words = ("apply", "--model", TINY, "--edit", edit, "--out", out)
    assert kloc(*words) == 2
    assert "--dtype" in capsys.readouterr().err and not out.exists()
    assert kloc(*words, "--dtype", dtype) == 0
    change = load_folder(out).decoder.weights[(name := "transformer.h.0.mlp.c_proj.weight")]
    assert (change - load_folder(TINY).decoder.weights[name]).norm() > 0
    capsys.readouterr()
    many = ("--method", "ft", "--cases", FACTS, "--sequence", 1, "--dtype", dtype)
    assert kloc("sequence", "--model", TINY, *many) == 0
    assert "FT, entity edits" in capsys.readouterr().out


def test_an_edit_of_another_model_needs_any_model_and_the_card_says_so(tmp_path, capsys) -> None:
    (path,) = edits(tmp_path, TINY, DOWN, 1, weights_sha256="0" * 64)
    words = ("apply", "--model", TINY, "--edit", path, "--out", tmp_path / "out")
    assert kloc(*words) == 2
    assert "--any-model" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert kloc(*words, "--any-model") == 0
    assert "used all the same" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("apply --model MODEL --out out", "--edit requires an argument"),
        ("apply --model MODEL --edit --out out", "--edit requires at least 1"),
        ("score --model MODEL --cases FACTS --edit", "--edit requires at least 1"),
        ("generate --model MODEL --prompt a --edit", "--edit requires at least 1"),
        ("apply --model MODEL --edit absent --out out", "absent: cannot be read"),
        ("apply --model MODEL --edit FACTS --out out", "cannot be read as a safetensors file"),
        ("apply --model MODEL --edit EDIT FACTS --out out", "cannot be read as a safetensors file"),
        ("apply --model MODEL --edit pipe --out out", "not a regular file"),
        ("apply --model MODEL --edit EDIT --out full", "is a folder that is not empty"),
        ("apply --model MODEL --edit EDIT --out EDIT", "exists and is not a folder"),
        ("apply --model MODEL --edit EDIT --out MODEL/new", "inside the model's own folder"),
        ("apply --model MODEL --edit EDIT --out /dev/null", "exists and is not a folder"),
        ("apply --model MODEL --edit EDIT --out /dev/null/x", "Not a directory"),
        ("apply --model absent --edit EDIT --out out", "neither a known name"),
        ("generate --model MODEL --prompt a --tokens 0", "at least 1"),
        ("generate --model MODEL --prompt a --tokens 4000", "exceeds the model's"),
        ("generate --model MODEL --prompt a --edit EDIT --json EDIT", "would take the place"),
    ],
)
def test_bad_input_is_one_line(words, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = edits(tmp_path, TINY, DOWN, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    os.mkfifo("pipe")
    named = {"MODEL": str(TINY), "FACTS": str(FACTS), "EDIT": str(path)}
    given = [word.replace(key, value) for word in words.split() for key, value in [_named(word, named)]]
    before = sorted(tmp_path.rglob("*"))
    assert kloc(*given) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert sorted(tmp_path.rglob("*")) == before


def _named(word: str, named: dict[str, str]) -> tuple[str, str]:
    return next(((key, value) for key, value in named.items() if key in word), ("", ""))
