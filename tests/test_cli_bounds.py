"""Numbers that no command can use are one line at once: before a model is loaded or a file is written."""

from pathlib import Path

import pytest

from artifact.cli import call

TINY = str(Path(__file__).parent / "reference" / "models" / "tiny-gpt2")
TRACE = ["trace", "--model", TINY, "--prompt", "The capital of France is", "--subject", "France"]
MOMENTS = ["moments", "--model", TINY, "--texts", "absent.txt", "--out", "o"]
TRAIN = ["mend-train", "--model", TINY, "--out", "m.safetensors"]
HUGE = "1" + "0" * 30


OPTIONS: list[tuple[list[str], str, tuple[str, ...]]] = [
    (["bench", "edit"], "--facts", ("0", "-1", HUGE)),
    (["bench", "edit"], "--loop-facts", ("0",)),
    (["bench", "edit"], "--target-tokens", ("0",)),
    (["bench", "evaluate"], "--facts", ("0",)),
    (["bench", "evaluate"], "--loop-facts", ("-3",)),
    (["bench", "trace"], "--facts", ("0",)),
    (["bench", "knockout"], "--tokens", ("2",)),
    (["bench", "knockout"], "--window", ("0",)),
    (["knockout", *TRACE[1:], "--from", "last", "--to", "subject"], "--window", ("0", "-1", HUGE)),
    (["bench", "trace"], "--tokens", ("0", "1", "-1", HUGE)),
    (["bench", "trace"], "--samples", ("0",)),
    (["bench", "trace"], "--loop-cells", ("0",)),
    (["bench", "trace"], "--memory", ("0GB",)),
    (["bench", "report"], "--records", ("0",)),
    (TRACE, "--samples", ("0", HUGE)),
    (TRACE, "--window", ("0", HUGE)),
    (TRACE, "--noise=", ("nan", "inf", "-1", "0", "1e400", "s1e400", "-s3", "")),
    (TRACE, "--memory", ("0GB", "0.0001KB", "1e400GB", "-1GB", "9" * 400 + "GB", "nanGB")),
    (MOMENTS, "--samples", ("0", HUGE)),
    (MOMENTS, "--batch-tokens", ("0",)),
    (MOMENTS, "--checkpoint-minutes", ("nan", "inf", "-1")),
    (TRAIN, "--steps", ("0", HUGE)),
    (TRAIN, "--lr", ("nan", "inf", "0", "-1")),
    (TRAIN, "--validation", ("nan", "0", "1", "7")),
    (TRAIN, "--seed", ("-1", HUGE)),
    (TRAIN, "--rank", ("0", HUGE)),
    (TRAIN, "--batch", ("0",)),
    (["world", "train", "--out", "w"], "--steps", ("0",)),
    (["world", "train", "--out", "w"], "--seed", ("-1",)),
    (["smoke", "--model", "world"], "--limit", ("0", HUGE)),
    (["smoke", "--model", "world"], "--memory", ("0GB",)),
    (["doctor", "--estimate", "smoke"], "--gpus", ("0", HUGE)),
    (["run", "sample", "--model", "world"], "--shard", (f"1/{HUGE}",)),
]


@pytest.mark.parametrize(
    "command",
    [
        [*command, option + value] if option.endswith("=") else [*command, option, value]
        for command, option, values in OPTIONS
        for value in values
    ],
    ids=lambda command: f"{command[0]} {command[-2][:20]} {command[-1][:20]}",
)
def test_a_number_of_no_use_is_one_line_at_once(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("artifact.lm.load.load_folder", _never)
    assert call(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("kloc: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _never(*given: object, **named: object) -> None:
    raise AssertionError("a model is loaded")
