"""kloc doctor as typed: what is there, what is missing with its command, and what makes every run impossible."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from artifact.cli import call, doctor
from artifact.plans import find_plans
from artifact.runs.resolve import run_model

GIVEN = ["--rate", "494.7TFLOPS", "--bandwidth", "3350GB/s", "--gpu-memory", "80GB"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own, and a folder to run in."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_all_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor"]) == 0
    said = capsys.readouterr()
    starts = ("kloc-artifact", "packages: torch", "disk: ", "sources: ", "smollm2: ", "plan smoke: nothing is missing")
    starts += ("plan full: ", "memory: ", "processors: ", "device: ", "TF32: ")
    for start in starts:
        assert any(line.startswith(start) for line in said.out.splitlines()), start
    assert "--protocol released sets it on, corrected sets it off" in said.out
    assert said.err == ""


def test_what_a_plan_lacks_and_how_to_get_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(plan: str) -> str:
        assert call(["doctor"]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"plan {plan}:"))

    before = line("sample")
    fetched = before.partition("kloc fetch ")[2].partition(" (")[0].split()
    assert {"relation", "known", "moments-gpt2-xl", "mend-gpt2-xl"} <= set(fetched)
    assert "without mend-gpt2-xl MEND's rows are skipped" in before
    (cache / "known").mkdir(parents=True)
    (cache / "known" / "known_1000.json").write_bytes(b"[]")
    after = line("sample")
    assert " known " not in after and "relation" in after
    assert "gpt-j" not in after and "gpt-j" in line("full")


def test_part_of_a_file_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "moments-gpt2-xl").mkdir(parents=True)
    name = "transformer.h.13.mlp.c_proj_float32_mom2_100000.npz"
    (cache / "moments-gpt2-xl" / name).write_bytes(b"a file of one layer")
    assert call(["doctor"]) == 0
    assert "partly: moments-gpt2-xl" in capsys.readouterr().out


def test_a_missing_package_stops_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert call(["doctor"]) == 2
    said = capsys.readouterr()
    assert "nothing can run here: safetensors is not installed; run pip install" in said.err
    assert "plan smoke" in said.out  # the rest is said all the same


def test_a_full_disk_and_a_torn_package_are_both_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_LEAST_DISK", 10**18)
    monkeypatch.setattr(doctor, "WORLD", tmp_path)
    assert call(["doctor"]) == 2
    said = capsys.readouterr().err
    assert "make room" in said and "the embedded world's files are not in the package" in said


def test_torch_that_does_not_load(tmp_path: Path) -> None:
    """All that needs no torch is said, then the reason and the remedy."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')")
    code = "import sys; sys.path.insert(0, '.'); from artifact.cli import call; sys.exit(call(['doctor']))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 2
    assert "plan smoke" in found.stdout and "Traceback" not in found.stderr
    assert "torch cannot be loaded (libtorch.so: cannot open shared object file); run pip install" in found.stderr


def test_an_estimate_for_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    def last(*more: str) -> list[str]:
        assert call(["doctor", "--estimate", "full", *GIVEN, *more]) == 0
        return capsys.readouterr().out.splitlines()

    one, eight = last(), last("--gpus", "8")
    assert one[0].startswith("a GPU") and "as given, not measured" in one[0]
    assert any(line.startswith("rome-entity") for line in one) and "full on gpt-j" in one
    assert one[-2].startswith("full: at most ") and one[-1].startswith("with ")
    assert one[-2] != eight[-2] and "8 machines" in eight[-2]
    few = last("--limit", "10")
    assert sum(line.split()[1:2] == ["10"] for line in few) == 21 + 17


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--estimate", "everything"], "plan 'everything' is unknown"),
        (["--estimate", "full", "--rate", "150TFLOPS"], "give all three"),
        (["--estimate", "full", *GIVEN, "--gpus", "0"], "must be at least 1"),
        (["--estimate", "full", *GIVEN, "--limit", "0"], "must be at least 1"),
        (["--estimate", "full", "--rate", "quick", *GIVEN[2:]], "--rate 'quick' is not a rate"),
        (["--estimate", "full", *GIVEN[:5], "much"], "memory 'much' is not a size"),
        (["--gpus", "4"], "need --estimate"),
        (["--limit", "4"], "needs --estimate or --rehearse"),
    ],
)
def test_what_cannot_be_estimated(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_what_a_report_of_the_machine_does_not_read_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--protocol corrected", "--correct tf32", "--limit 3"):
        assert call(["doctor", *option.split()]) == 2
        assert f"{option.split()[0]} needs --estimate or --rehearse" in capsys.readouterr().err


def test_a_plan_of_encoders_is_not_said_to_run_on_gpt2(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does `auto` take it, where it could be fetched."""
    call(["doctor"])
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("plan encoders:"))
    assert line.endswith("runs on the embedded world")
    (plan,), said = find_plans("encoders"), list[str]()
    assert run_model(plan, "auto", said.append)[0] == "world"
    assert run_model(plan, "auto", said.append, begun_with="gpt2")[0] == "gpt2"
