"""`kloc moments` as a user types it: from texts to the moments of an edit, stopped, resumed, refused."""

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from artifact.cli import call
from artifact.editing.methods import METHODS, moment_layers
from artifact.progress import Bar, Words

REFERENCE = Path(__file__).parent / "reference"
TINY = str(REFERENCE / "models" / "tiny-gpt2")
NAME = "transformer.h.{}.mlp.c_proj_float32_mom2_{}.npz"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Many short texts and a long one; enough keys for matrices that can be solved with."""
    facts = json.loads((REFERENCE / "facts.json").read_text())
    prompts = [prompt for fact in facts for prompt in fact["neighborhood_prompts"]]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*prompts, "France " * 200]) + "\n")
    return path


def names(model: str, depth: int, count: int) -> list[str]:
    """The files of the layers that the methods edit."""
    return [NAME.format(layer, count) for layer in moment_layers(METHODS, model, depth)]


def command(texts: object, out: Path, *more: str) -> list[str]:
    return ["moments", "--model", TINY, "--texts", str(texts), "--out", str(out), *more]


def test_from_texts_to_an_edit(texts, tmp_path, capsys) -> None:
    count = len(texts.read_text().splitlines())
    out = tmp_path / "made" / "here"
    assert call(command(texts, out)) == 0
    said = capsys.readouterr().out.splitlines()
    described = json.loads((out / "moments.json").read_text())
    assert said[-1] == str(out) and said[0].startswith(f"texts.txt: {count} texts, {described['tokens']} tokens")
    assert said[1].startswith("1 cut at the model's 128 positions, 0 skipped")
    assert {path.name for path in out.iterdir()} == {"moments.json", *names("tiny-gpt2", 6, count)}
    assert str(texts.parent) not in described["source"]
    assert (described["texts"], described["longest"], described["source_bytes"]) == (count, 128, texts.stat().st_size)

    request = tmp_path / "request.json"
    request.write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[10]))
    (tmp_path / "prefixes.json").write_text('["{}"]')
    edit = ["edit", "--model", TINY, "--method", "rome", "--request", str(request), "--out", str(tmp_path / "e.st")]
    assert call([*edit, "--prefixes", str(tmp_path / "prefixes.json"), "--moments", str(out)]) == 0
    assert f"other corpus: texts.txt, {count} texts" in capsys.readouterr().out

    assert call(command(texts, out)) == 0  # there already
    assert capsys.readouterr().out.splitlines() == said


def test_layers_and_samples_asked_for(texts, tmp_path) -> None:
    assert call(command(texts, tmp_path / "o", "--layers", "3,0", "--samples", "9")) == 0
    names = {path.name for path in (tmp_path / "o").glob("*.npz")}
    assert names == {NAME.format(0, 9), NAME.format(3, 9)}
    assert all(np.load(tmp_path / "o" / name)["sample_size"] == 9 for name in names)


def test_the_world_has_texts_of_its_own(tmp_path, capsys) -> None:
    assert call(["moments", "--model", "world", "--samples", "20", "--out", str(tmp_path)]) == 0
    assert "the embedded world's corpus: 20 texts" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == names("world", 6, 20)


def piped(content: bytes, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_gives_what_the_file_gives(texts, tmp_path, monkeypatch) -> None:
    piped(texts.read_bytes(), monkeypatch)
    assert call(command("-", tmp_path / "pipe", "--samples", "30", "--checkpoint-minutes", "0")) == 0
    assert call(command(texts, tmp_path / "file", "--samples", "30")) == 0
    file, pipe = ((tmp_path / name / NAME.format(2, 30)).read_bytes() for name in ("file", "pipe"))
    assert file == pipe


def asking_to_stop(monkeypatch, times: int = 1) -> None:
    """Ctrl-C, so many times, when the first batch is done."""
    show = Bar.at

    def press(self: Bar, done: float, total: float | None, words: Words) -> None:
        show(self, done, total, words)
        if done:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bar, "at", press)


def test_stopped_then_resumed(texts, tmp_path, capsys, monkeypatch) -> None:
    more = ["--layers", "0,2", "--batch-tokens", "200"]
    assert call(command(texts, tmp_path / "whole", *more)) == 0
    handler = signal.getsignal(signal.SIGINT)
    for times, says in ((1, "the same command goes on from there"), (2, "stopped at once; the last checkpoint stays")):
        with monkeypatch.context() as patched:
            asking_to_stop(patched, times)
            assert call(command(texts, tmp_path / "parts", *more)) == 3
        assert says in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "parts").iterdir()] == ["moments.partial"]
        assert signal.getsignal(signal.SIGINT) is handler
    assert call(command(texts, tmp_path / "parts", *more)) == 0
    assert "moments: going on after " in capsys.readouterr().out
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_stopped_standard_input_says_that_nothing_is_kept(texts, tmp_path, capsys, monkeypatch) -> None:
    piped(texts.read_bytes(), monkeypatch)
    asking_to_stop(monkeypatch)
    assert call(command("-", tmp_path / "o", "--batch-tokens", "200")) == 3
    assert "standard input cannot be read again, so nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["moments", "--model", TINY, "--out", "o"], "has no built-in texts; give --texts FILE"),
        (command("absent.txt", Path("o")), "absent.txt: cannot be read (No such file"),
        (command(REFERENCE, Path("o")), "is neither .txt nor .jsonl"),
        (command("bad.jsonl", Path("o")), 'bad.jsonl: line 3 is not a JSON object with the field "text"'),
        (command("half.jsonl", Path("o")), "half.jsonl: line 1 is not a JSON object"),
        (command("latin.txt", Path("o")), "latin.txt: line 2 is not UTF-8"),
        (command("latin.jsonl", Path("o")), "latin.jsonl: line 1 is not a JSON object"),
        (command("deep.jsonl", Path("o")), "deep.jsonl: line 1 is not a JSON object"),
        (command("empty.txt", Path("o")), "empty.txt: holds no text"),
        (command("good.txt", Path("/proc/nothing")), "/proc/nothing: cannot be written"),
        (command("good.txt", Path("good.txt")), "good.txt: cannot be written"),
        (command("good.txt", Path("o"), "--layers", "six"), "layers 'six' are not numbers"),
        (command("good.txt", Path("o"), "--layers", "6"), "not in this model of 6 layers; give some of 0 to 5"),
        (command("good.txt", Path("o"), "--samples", "0"), "samples and batch tokens must be at least 1, got 0"),
        (command("good.txt", Path("o"), "--batch-tokens", "-4"), "must be at least 1, got 100000 and -4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("A text.\n")
    Path("empty.txt").write_text("\n\n")
    Path("latin.txt").write_bytes(b"plain\nna\xefve\n")
    Path("latin.jsonl").write_bytes(b'{"text": "na\xefve"}\n')
    Path("deep.jsonl").write_text('{"text": "one", "more": ' + 100_000 * "[" + 100_000 * "]" + "}\n")
    Path("bad.jsonl").write_text('{"text": "one"}\n\n{"title": "two"}\n')
    Path("half.jsonl").write_text('{"text": "one\n')
    before = set(tmp_path.iterdir())
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1
    assert says in error
    assert set(tmp_path.iterdir()) == before
