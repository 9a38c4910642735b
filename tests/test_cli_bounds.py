"""Numbers that no command can use are one line at once: before a model is loaded or a file is written."""

from pathlib import Path

import pytest

from artifact.cli import call

TINY = str(Path(__file__).parent / "reference" / "models" / "tiny-gpt2")
TRACE = ["trace", "--model", TINY, "--prompt", "The capital of France is", "--subject", "France"]
MOMENTS = ["moments", "--model", TINY, "--texts", "absent.txt", "--out", "o"]
TRAIN = ["mend-train", "--model", TINY, "--out", "m.safetensors"]
HUGE = "1" + "0" * 30


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "edit", "--facts", "0"],
        ["bench", "edit", "--facts", "-1"],
        ["bench", "edit", "--facts", HUGE],
        ["bench", "edit", "--loop-facts", "0"],
        ["bench", "edit", "--target-tokens", "0"],
        ["bench", "evaluate", "--facts", "0"],
        ["bench", "evaluate", "--loop-facts", "-3"],
        ["bench", "trace", "--facts", "0"],
        *(["bench", "trace", "--tokens", tokens] for tokens in ("0", "1", "-1")),
        ["bench", "trace", "--tokens", HUGE],
        ["bench", "trace", "--samples", "0"],
        ["bench", "trace", "--loop-cells", "0"],
        ["bench", "trace", "--memory", "0GB"],
        ["bench", "report", "--records", "0"],
        [*TRACE, "--samples", "0"],
        [*TRACE, "--samples", HUGE],
        [*TRACE, "--window", "0"],
        [*TRACE, "--window", HUGE],
        *([*TRACE, f"--noise={noise}"] for noise in ("nan", "inf", "-1", "0", "1e400", "s1e400", "-s3", "")),
        *([*TRACE, "--memory", size] for size in ("0GB", "0.0001KB", "1e400GB", "-1GB", "9" * 400 + "GB", "nanGB")),
        [*MOMENTS, "--samples", "0"],
        [*MOMENTS, "--samples", HUGE],
        [*MOMENTS, "--batch-tokens", "0"],
        *([*MOMENTS, "--checkpoint-minutes", minutes] for minutes in ("nan", "inf", "-1")),
        *([*TRAIN, "--steps", steps] for steps in ("0", HUGE)),
        *([*TRAIN, "--lr", rate] for rate in ("nan", "inf", "0", "-1")),
        *([*TRAIN, "--validation", share] for share in ("nan", "0", "1", "7")),
        *([*TRAIN, "--seed", seed] for seed in ("-1", HUGE)),
        *([*TRAIN, "--rank", rank] for rank in ("0", HUGE)),
        [*TRAIN, "--batch", "0"],
        ["world", "train", "--out", "w", "--steps", "0"],
        ["world", "train", "--out", "w", "--seed", "-1"],
        ["smoke", "--model", "world", "--limit", "0"],
        ["smoke", "--model", "world", "--limit", HUGE],
        ["smoke", "--model", "world", "--memory", "0GB"],
        ["doctor", "--estimate", "smoke", "--gpus", "0"],
        ["doctor", "--estimate", "smoke", "--gpus", HUGE],
        ["run", "sample", "--model", "world", "--shard", f"1/{HUGE}"],
    ],
    ids=lambda command: " ".join(word[:12] for word in command if word not in (*TRACE, *MOMENTS, *TRAIN)),
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
