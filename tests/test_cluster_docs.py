"""docs/cluster.md can be followed: its scripts run under a stand-in for SLURM (slurm.py), its numbers are computed."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import slurm

from artifact.bench import estimate
from artifact.bench.machine import other_machine
from artifact.cli import call
from artifact.plans import find_plans

DOCUMENT = Path(__file__).parents[1] / "docs" / "cluster.md"
TEXT = DOCUMENT.read_text()
CARDS = {"H100": ("494.7TFLOPS", "3350GB/s", "80GB"), "RTX A6000": ("77.4TFLOPS", "768GB/s", "48GB")}
"""Cards by the rates that docs/scaling.md gives."""
MODELS = {"GPT-2 XL": "gpt2-xl", "GPT-J": "gpt-j"}


def block(words: str) -> str:
    """The one shell block that holds these words."""
    (found,) = [one for one in re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) if words in one]
    return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the document's scripts, for two parts, in which sbatch, scontrol and kloc are the stand-ins."""
    shared = tmp_path / "shared"
    commands = shared / "kloc" / "venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("sbatch", "scontrol", "kloc"):
        (commands / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(slurm.__file__)} {name} "$@"\n'
        )
        (commands / name).chmod(0o755)
    (commands / "activate").write_text(f"PATH={shlex.quote(str(commands))}:$PATH\n")
    for name in ("shards.sh", "merge.sh"):
        script = block(f"# {name}: ").replace("/shared", str(shared))
        if name == "shards.sh":
            assert script.count("--array=1-4") == script.count("_TASK_ID/4 ") == 1
            script = script.replace("--array=1-4", "--array=1-2").replace("_TASK_ID/4 ", "_TASK_ID/2 ")
        (tmp_path / name).write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def submit(words: str, signals: str = "") -> list[tuple[int, int, int]]:
    """Run a block of the document; the starts of tasks that came of it."""
    before = slurm.jobs()
    environment = {**os.environ, "SLURM_SIGNALS": signals}
    done = subprocess.run(
        ["bash", "-ec", block(words)], capture_output=True, text=True, timeout=400, env=environment, check=False
    )
    logs = "".join(path.read_text() for path in Path().glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    return slurm.jobs()[len(before) :]


def rows(folder: Path, table: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        return connection.execute(f"select * from {table}").fetchall()


def test_parts_are_requeued_resumed_and_merged(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The time limit stops the first part, a memory limit kills the second one: the merged run is as one in a piece."""
    first, second, merged = (Path("results") / name for name in ("part-1", "part-2", "gpt2-xl"))
    starts = submit("array=$(sbatch --parsable shards.sh)", signals="1=TERM 2=KILL")
    assert sorted(starts) == [[1, 1, 0], [1, 1, 3], [1, 2, 137]]  # no merge: it waits for exit code 0
    stopped = Path("shard-1.log").read_text()
    assert stopped.count("results/part-1 keeps all that was done, and the same command goes on from there") == 1
    assert stopped.index("unedited: 9/9 cases") < stopped.index("keeps all"), "the batch in hand was not finished"
    assert len(rows(first, "records")) == 14 and len(rows(second, "records")) == 2 and not merged.exists()

    assert call(["status", "results"]) == 0
    said = capsys.readouterr().out
    assert "part 2 of 2; nobody is working on it" in said and "2 left" in said

    starts = submit("--array=2 ")
    assert starts == [[2, 2, 0], [3, 0, 0]]
    assert call(["run", *slurm.PLAN, "--memory", "20GB", "--out", "whole"]) == 0
    for table in ("records", "numbers"):
        assert rows(merged, table) == rows(Path("whole"), table)
    assert (merged / "run.json").read_bytes() == Path("whole/run.json").read_bytes()
    assert (merged / "report" / "report.html").is_file()
    cache = cluster / "shared" / "kloc" / "cache"
    assert [path.name for path in cache.iterdir()] == ["templates"]  # compiled; jobs fetch nothing


def test_the_longest_batches_are_those_of_the_estimate() -> None:
    told = re.findall(r"^\| (GPT-2 XL|GPT-J) \| (.*?) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(told) == 4
    for model, card, seconds in told:
        (plan,) = find_plans(MODELS[model])
        (found,) = estimate.estimate(plan.name, other_machine(*CARDS[card]), "released")
        batch = {unit.name: unit.batch for unit in plan.units}
        assert max(one.seconds / one.facts * batch[one.name] for one in found.units) == pytest.approx(
            int(seconds), abs=0.6
        )


def test_what_the_estimate_prints(capsys: pytest.CaptureFixture[str]) -> None:
    ((command, printed),) = re.findall(r"```\n\$ kloc (.*?)\n(.*?)```", TEXT, re.DOTALL)
    assert call(shlex.split(command)) == 0
    left = iter([line.partition(", disk ")[0] for line in capsys.readouterr().out.splitlines()])
    for line in printed.splitlines():  # in this order
        assert line == "..." or line in left, line
