"""TF32 is on or off as the protocol says, for every command that computes, whatever it was before."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from artifact.bench import rehearse
from artifact.bench.machine import this_machine
from artifact.cli import call
from artifact.editing.protocol import PROTOCOLS
from artifact.errors import SettingError
from artifact.lm.device import use_tf32
from artifact.plans.paper import SMOKE
from artifact.runs.resolve import Asked, prepare

REFERENCE = Path(__file__).parent / "reference"
TINY = REFERENCE / "models" / "tiny-gpt2"
ON = ("--model", TINY, "--device", "cpu")
FOLLOWING = {
    "trace": (*ON, "--prompt", "The capital of France is", "--subject", "France"),
    "edit": (*ON, "--method", "ft", "--request", "request.json", "--out", "edit.safetensors"),
    "score": (*ON, "--cases", "request.json", "--json", "scores.json"),
    "bench": ("evaluate", "--device", "cpu"),
    "run": ("smoke", "--model", "world", "--limit", "1", "--only", "table1", "--methods", "ft", "--device", "cpu"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "request.json").write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[15]))
    (tmp_path / "texts.txt").write_text("The capital of France is Paris\n" * 40)
    yield
    use_tf32(False)


def flags() -> set[bool]:
    return {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}


def refuse(*_: object, **__: object) -> None:
    raise SettingError("here it ends")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("command", FOLLOWING)
def test_a_command_follows_its_protocol(command: str, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.bench.evaluate.bench_evaluate", refuse)
    monkeypatch.setattr("artifact.runs.local.compute", refuse)
    wanted = PROTOCOLS[protocol].tf32
    use_tf32(not wanted)
    code = call([str(word) for word in (command, *FOLLOWING[command], "--protocol", protocol)])
    assert code == (2 if command in ("bench", "run") else 0) and flags() == {wanted}
    if command == "score":
        assert json.loads(Path("scores.json").read_text())["protocol"] == protocol


@pytest.mark.parametrize("switch", ["tf32", "kn_undone"])
def test_a_single_switch_counts(switch: str) -> None:
    use_tf32(switch == "tf32")
    assert call([str(word) for word in ("score", *FOLLOWING["score"], "--correct", switch)]) == 0
    assert flags() == {switch != "tf32"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_run_an_estimate_and_a_rehearsal_follow_theirs(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = PROTOCOLS[protocol].tf32
    unedited = type(SMOKE)("smoke", "scores", (SMOKE.units[0],))
    use_tf32(not wanted)
    prepare(unedited, Asked("world", protocol, limit=1, device="cpu"), lambda line: None)
    assert flags() == {wanted}
    for name in ("matrix_rate", "copy_rate"):
        monkeypatch.setattr(f"artifact.bench.machine.{name}", lambda *_: 1.0)
    use_tf32(not wanted)
    this_machine(protocol)
    assert flags() == {wanted}
    monkeypatch.setattr(rehearse, "matrix_rate", refuse)
    use_tf32(not wanted)
    with pytest.raises(SettingError):
        rehearse.rehearse("smoke", protocol, print, device="cpu")
    assert flags() == {wanted}


@pytest.mark.parametrize(
    "command",
    [
        ("moments", *ON, "--texts", "texts.txt", "--layers", "1", "--out", "moments"),
        ("mend-train", *ON, "--facts", REFERENCE / "facts.json", "--steps", "1", "--out", "network.safetensors"),
    ],
    ids=["moments", "mend-train"],
)
def test_what_is_made_once_for_a_model_is_made_in_float32(command: tuple[object, ...]) -> None:
    use_tf32(True)
    assert call([str(word) for word in command]) == 0
    assert flags() == {False}


@pytest.mark.parametrize(("method", "option"), [("rome", "--moments"), ("mend", "--mend-weights")])
def test_an_edit_takes_what_was_made_for_the_model_in_its_own_type(
    method: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights' type is part of a model's identity: what was made in one is refused in another."""
    made = {
        "rome": ("moments", *ON, "--texts", "texts.txt", "--layers", "1", "--out", "made"),
        "mend": ("mend-train", *ON, "--facts", REFERENCE / "facts.json", "--steps", "1", "--out", "made.safetensors"),
    }[method]
    file = str(made[-1])
    layers = {"rome": {"layers": [1], "v_num_grad_steps": 2}, "mend": {}}[method]
    Path("hparams.json").write_text(json.dumps(layers))
    Path("prefixes.json").write_text(json.dumps(["{}"]))
    Path("texts.txt").write_text(Path(__file__).read_text() * 2)  # keys enough for the matrix to be of full rank
    half = ("--dtype", "bfloat16")
    edit = ("edit", *ON, "--method", method, "--request", "request.json", "--out", "edit.safetensors")
    edit += (
        option,
        file,
        "--hparams",
        "hparams.json",
        *(("--prefixes", "prefixes.json") if method == "rome" else ()),
    )
    assert call([str(word) for word in (*made, *half)]) == 0
    assert call([str(word) for word in (*edit, *half)]) == 0
    capsys.readouterr()
    assert call([str(word) for word in edit]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kloc: {file}: was made for a model whose weights") and "with this --dtype" in line
