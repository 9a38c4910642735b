"""The command line as a user types it: what is written, what is refused, with which exit code."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from artifact.cli import call

REFERENCE = Path(__file__).parent / "reference"
TINY = str(REFERENCE / "models" / "tiny-gpt2")
TRACE = ["trace", "--model", TINY, "--prompt", "The capital of France is", "--subject", "France", "--noise", "0.3"]


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gptj"])
@pytest.mark.parametrize(
    ("options", "file", "key"),
    [
        ([], "subject", "scores_state"),
        (["--kind", "mlp"], "subject", "scores_mlp_w10"),
        (["--kind", "attn", "--window", "3"], "subject", "scores_attn_w3"),
        (["--sever", "mlp"], "subject", "severed_mlp"),
        (["--sever", "attn", "--protocol", "corrected"], "subject", "severed_attn_same_noise"),
        (["--corrupt", "relation", "--relation-span", "after"], "relation", "scores_state"),
    ],
)
def test_trace_writes_golden_numbers(name, options, file, key, tmp_path, capsys) -> None:
    golden = np.load(REFERENCE / "trace" / f"{name}_case26_{file}.npz")
    prompt = "The headquarters of Hyundai Motor Company are located in the city of"
    command = ["trace", "--model", str(REFERENCE / "models" / name), "--prompt", prompt]
    command += ["--subject", "Hyundai Motor Company", "--noise", "s3", "--facts", str(REFERENCE / "facts.json")]
    assert call([*command, *options, "--json", str(tmp_path / "t.json")]) == 0
    found = json.loads((tmp_path / "t.json").read_text())
    np.testing.assert_allclose(found["scores"], golden[key], rtol=0, atol=1e-5)
    assert found["span"] == list(range(*golden["corrupt_range"]))
    assert found["noise"] == pytest.approx(float(golden["noise_level"]), rel=1e-6)
    assert {"tokens", "span", "answer", "clean", "corrupted", "scores", "kind", "window", "sever", "noise"} <= set(
        found
    )
    assert "answer ' Seoul'" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_trace_draws_a_figure(suffix, tmp_path) -> None:
    path = tmp_path / "figures" / f"trace.{suffix}"
    assert call([*TRACE, "--figure", str(path)]) == 0
    first = path.read_bytes()
    assert first[:4] in (b"\x89PNG", b"%PDF")
    assert call([*TRACE, "--figure", str(path)]) == 0
    assert path.read_bytes() == first


def test_the_embedded_world_answers(capsys) -> None:
    facts = json.loads((REFERENCE.parent.parent / "artifact" / "facts" / "data" / "world" / "facts.json").read_text())
    rewrite = facts[0]["requested_rewrite"]
    prompt = rewrite["prompt"].format(rewrite["subject"])
    assert call(["trace", "--model", "world", "--prompt", prompt, "--subject", rewrite["subject"]]) == 0
    said = capsys.readouterr().out
    assert repr(" " + rewrite["target_true"]["str"]) in said
    lines = said.splitlines()
    head = next(n for n, line in enumerate(lines) if line.split() == ["0", "1", "2", "3", "4", "5"])
    assert "the answer's p with one state restored; *: a corrupted token; columns: layer" in lines[head - 1]
    # A layer's number stands above the end of its column.
    assert all(lines[head + 1][end - 1] != " " for end in (match.end() for match in re.finditer(r"\d", lines[head])))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*TRACE[:-4], "--subject", "Spain"], "subject 'Spain' is not in the prompt"),
        ([*TRACE[:3], "--prompt", "", "--subject", "France"], "the prompt is empty"),
        ([*TRACE[:3], "--prompt", "France" + " is" * 200, "--subject", "France"], "128 positions; shorten it"),
        (["trace", "--model", "nope", "--prompt", "a b", "--subject", "a"], "model 'nope' is neither"),
        (["trace", "--model", str(REFERENCE), "--prompt", "a b", "--subject", "a"], "is not a transformers model"),
        (["trace", "--model", "world", "--prompt", "Quantum is", "--subject", "Quantum"], "'Quantum' in 'Quantum is'"),
        ([*TRACE[:-1], "loud"], "noise 'loud' is neither s3 nor a number"),
        ([*TRACE[:-1], "-1"], "noise level must be a positive number"),
        ([*TRACE, "--samples", "0"], "samples and window must be at least 1"),
        ([*TRACE, "--sever", "mlp", "--kind", "attn"], "is not a kind of trace; give one of --kind hidden"),
        ([*TRACE, "--kind", "neuron"], "kind"),
        ([*TRACE, "--facts", "absent.json"], "absent.json: cannot be read"),
        ([*TRACE, "--json", "/proc/nothing/t.json"], "cannot be written"),
        ([*TRACE, "--figure", "/proc/nothing/t.png"], "cannot be written"),
        ([*TRACE, "--figure", "trace.docx"], "trace.docx"),
        (["smoke", "--model", TINY, "--out", "/proc/nothing"], "cannot be written"),
        (["smoke", "--limit", "0", "--model", TINY], "--limit must be at least 1"),
        (["smoke", "--model", "nope"], "model 'nope' is neither"),
        (["run", "everything"], "plan 'everything' is unknown"),
        (["report", "absent"], "absent: is not there; name a run folder"),
        (["verify", "absent"], "absent: is not there; name a run folder"),
        (["score", "--model", TINY, "--cases", str(REFERENCE / "README.md")], "is not valid JSON"),
        (["edit", "--model", TINY, "--method", "rome", "--request", str(REFERENCE / "facts.json"), "--out", "e.st"],
         "holds 30 records and rome edits single facts"),
        (["dance"], "dance"),
        (["smoke", "--modell", "world"], "--modell"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1
    assert says in error
    assert list(tmp_path.iterdir()) == []


def test_world_train_builds_a_world_that_loads(tmp_path, capsys) -> None:
    assert call(["world", "train", "--out", str(tmp_path / "world"), "--seed", "7", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 2/2: loss" in out and "entity_main: recall" in out
    assert out.splitlines()[-1] == str(tmp_path / "world")
    facts = json.loads((tmp_path / "world" / "facts.json").read_text())
    rewrite = facts[0]["requested_rewrite"]
    prompt = rewrite["prompt"].format(rewrite["subject"])
    command = ["trace", "--model", str(tmp_path / "world"), "--prompt", prompt, "--subject", rewrite["subject"]]
    assert call([*command, "--noise", "0.3"]) == 0


def test_help_names_every_command(capsys) -> None:
    assert call(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("smoke", "run", "trace", "edit", "score", "report", "verify", "world"))
    assert call(["--version"]) == 0
