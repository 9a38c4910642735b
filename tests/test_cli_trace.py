"""kloc trace with other corruptions, directions and metrics: what its file holds, what it says, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from artifact.cli import call

REFERENCE = Path(__file__).parent / "reference"
TRACE = ["trace", "--model", str(REFERENCE / "models" / "tiny-gpt2"), "--prompt", "The capital of France is"]
TRACE += ["--subject", "France", "--facts", str(REFERENCE / "facts.json")]


def traced(tmp_path: Path, *options: str) -> dict:
    file = tmp_path / "t.json"
    assert call([*TRACE, *options, "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_a_donor_s_golden_numbers(tmp_path: Path, capsys) -> None:
    golden = np.load(REFERENCE / "str_trace" / "tiny-gpt2_case0_from1.npz")
    found = traced(
        tmp_path, "--corruption", "replace", "--donor", "Japan", "--metric", "ld", "--kind", "mlp", "--window", "3"
    )
    np.testing.assert_allclose(found["scores"], golden["logit_diff_mlp_w3"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found["metrics"]["p"]["scores"], golden["prob_mlp_w3"], rtol=0, atol=1e-5)
    assert found["clean"] == pytest.approx(golden["clean"][2], abs=5e-5)
    assert (found["metric"], found["donors"], found["noise"]) == ("ld", ["The capital of Japan is"], None)
    normalised = (golden["prob_mlp_w3"] - golden["corrupt"][0]) / (golden["clean"][0] - golden["corrupt"][0])
    np.testing.assert_allclose(found["metrics"]["p"]["normalised"], normalised, rtol=0, atol=2e-5)
    out = capsys.readouterr().out
    assert "replaced by 1 donor" in out and "the answer's logit minus that of ' Tokyo'" in out


def test_directions_and_a_mean(tmp_path: Path, capsys) -> None:
    options = ("--corruption", "mean", "--metric", "logp", "--figure", str(tmp_path / "t.png"))
    restored = traced(tmp_path, *options)
    corrupted = traced(tmp_path, *options, "--direction", "corrupt")
    out = capsys.readouterr().out
    assert "mean embedding of the corrupted tokens of" in out and "corrupted values are put into the clean run" in out
    assert restored["clean"] == pytest.approx(corrupted["clean"]) and restored["scores"][0][0] == restored["corrupted"]
    assert corrupted["scores"][0][0] == corrupted["clean"]
    assert corrupted["scores"][-1][-1] == pytest.approx(corrupted["corrupted"], abs=1e-5)
    two = traced(tmp_path, "--corruption", "replace", "--donor", "Japan", "--donor", "Italy")
    assert (two["samples"], two["foils"], two["direction"]) == (2, [" Tokyo", " Rome"], "restore")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--corruption", "replace"], "--corruption replace and --donor need each other"),
        (["--donor", "Japan"], "--corruption replace and --donor need each other"),
        (["--corruption", "replace", "--donor", "Saudi Arabia"], "has 6 tokens and the traced one 5"),
        (["--corruption", "replace", "--donor", "Japan", "--corrupt", "relation"], "does not hold {} once"),
        (["--corruption", "shuffle"], "corruption"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options: list[str], says: str, capsys) -> None:
    assert call([*TRACE, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error


def test_a_screen_stands_beside_the_exact_cells(tmp_path: Path, capsys) -> None:
    found = traced(tmp_path, "--corruption", "replace", "--donor", "Japan", "--metric", "ld", "--screen")
    assert np.shape(found["screen"]["effects"]) == np.shape(found["scores"])
    assert 0 < found["screen"]["rank_correlation"] <= 1
    assert f"rank correlation with the exact ones {found['screen']['rank_correlation']:.2f}" in capsys.readouterr().out
