"""`kloc status`: what is done and left, who works on it, how long it will take; while another process writes."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cheap import PLAN, Cheap, contents, description, record, run

from artifact.cli import call
from artifact.errors import Interrupted
from artifact.plans.paper import SMOKE
from artifact.runs.lock import locked
from artifact.runs.record import Record
from artifact.runs.status import UnitStatus, run_status, status_lines, total_line
from artifact.runs.store import begin, reading, writing

UNEDITED, ENTITY, RELATION, TRACE = PLAN.units


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run that was stopped in its second unit: the two batches of its first edit unit take 0.5 s a case."""
    with pytest.raises(Interrupted):
        run(tmp_path / "run", Cheap(stop=7))
    return tmp_path / "run"


def test_units(unfinished: Path) -> None:
    with reading(unfinished) as store:
        found = run_status(store)
    assert found.holder is None
    assert found.units == (
        UnitStatus("unedited", done=20, left=0, failed=0, excluded=0, seconds=0.5, own=True),
        UnitStatus("rome-entity", done=7, left=12, failed=1, excluded=0, seconds=0.5, own=True),
        UnitStatus("rome-relation", done=0, left=14, failed=0, excluded=0, seconds=0.5, own=False),
        UnitStatus("trace-hidden-entity", done=0, left=20, failed=0, excluded=0, seconds=None, own=False),
    )
    assert [unit.time_left for unit in found.units] == [0.0, 6.0, 7.0, None]


def test_as_typed(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["status", str(unfinished)]) == 0
    first, newest, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{unfinished}: smoke on world, protocol released; nobody is working on it"
    assert newest.startswith("newest batch stored 20") and newest.endswith(" s ago")
    assert [line.split() for line in lines[1:5]] == [
        ["unedited", "20", "0", "0", "0", "0.5"],
        ["rome-entity", "7", "12", "1", "0", "0.5", "6", "s"],
        ["rome-relation", "0", "14", "0", "0", "~0.5", "~7", "s"],
        ["trace-hidden-entity", "0", "20", "0", "0", "unknown"],
    ]
    assert lines[5:] == [
        "in all: 28 cases, 46 left, ~13 s and 1 unit of unknown length",
        "1 failed: not finite",
    ]


def test_finished(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(unfinished)
    capsys.readouterr()
    assert call(["status", str(unfinished)]) == 0
    assert "in all: 74 cases, none left\n" in capsys.readouterr().out


def test_who_works_on_it(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os, sys; from pathlib import Path; from artifact.cli import call\n"
    code += "assert call(['status', sys.argv[1]]) == 0\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    with locked(unfinished):
        said = (unfinished / "run.lock").read_text()
        seen = subprocess.run([sys.executable, "-c", code, unfinished], capture_output=True, text=True, timeout=60)
    assert seen.returncode == 0, seen.stderr
    assert f"released; {said} is working on it\n" in seen.stdout
    call(["status", str(unfinished)])
    assert "nobody is working on it" in capsys.readouterr().out


def test_while_another_process_writes(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from artifact.runs.store import writing\n"
    code += "from artifact.plans.unit import Unit; from artifact.runs.store import Record\n"
    code += "with writing(Path(sys.argv[1])) as store:\n"
    code += "    print('held', flush=True)\n"
    code += "    for case in range(10**9): store.add(Unit('unedited', 'unedited', 4), Record(case, 'failed', {}))\n"
    with writing(tmp_path) as store:
        begin(store, description())
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        failed = [-1]
        while failed[-1] < 10:
            time.sleep(0.02)
            with reading(tmp_path) as store:
                found = run_status(store)
            assert found.holder is not None and str(writer.pid) in found.holder
            assert found.units[0].failed >= failed[-1]
            failed.append(found.units[0].failed)
        writer.kill()
    assert len(contents(tmp_path)["unedited"]) >= 10


def test_several_runs_and_one_of_them_damaged(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(unfinished.parent / "other")
    capsys.readouterr()
    assert call(["status", str(unfinished.parent)]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split(": ")[0] for block in blocks[:2]] == [
        f"{unfinished.parent}/{name}" for name in ("other", "run")
    ]
    assert (
        blocks[-1] == f"{unfinished.parent}, 2 runs, in all: 102 cases, 46 left, ~13 s and 1 unit of unknown length\n"
    )
    (unfinished.parent / "other" / "run.sqlite").write_bytes(b"no journal " * 1000)
    assert call(["status", str(unfinished.parent)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "other/run.sqlite: cannot be used as a run's journal" in said.err
    assert f"{unfinished}: smoke on world" in said.out


def test_kin_are_the_same_method_or_kind_of_trace(tmp_path: Path) -> None:
    units = {unit.name: unit for unit in SMOKE.units}
    with writing(tmp_path) as store:
        begin(store, msgspec.structs.replace(description(), plan=SMOKE))
        store.add_time(units["memit-entity"], 30.0, 10)
        store.add_time(units["trace-severed-mlp-relation"], 8.0, 4)
        found = {unit.unit: unit.seconds for unit in run_status(store).units if unit.seconds is not None}
    mlp = {f"trace-severed-mlp-{view}": 2.0 for view in ("entity", "relation")}
    assert found == {"memit-entity": 3.0, "memit-relation": 3.0, **mlp}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.002, "<1 s"), (0.2, "20 s"), (4, "7 min"), (60, "1 h 40 min"), (7190, "8 d 8 h"), (None, "unknown")],
)
def test_durations(seconds: float | None, words: str, unfinished: Path) -> None:
    with reading(unfinished) as store:
        found = run_status(store)
    one = UnitStatus("unedited", done=0, left=100, failed=0, excluded=0, seconds=seconds, own=True)
    found = replace(found, stored=None, units=(one,))
    assert status_lines(found, 0.0)[2].endswith(f"  {words}")
    in_all = "for an unknown time" if seconds is None else words
    assert total_line([found]) == f"in all: 0 cases, 100 left, {in_all}"


def test_a_record_more_is_seen_at_once(unfinished: Path) -> None:
    with writing(unfinished) as store:
        store.add(TRACE, record(TRACE, 107))
        assert run_status(store).units[3].left == 19


@pytest.mark.parametrize("value", ["'now'", "9e999", "-1e300"])
@pytest.mark.parametrize("column", ["seconds", "cases", "ended"])
def test_a_time_that_is_not_a_number_is_damage(
    column: str, value: str, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(unfinished / "run.sqlite")) as connection, connection:
        connection.execute(f"update times set {column} = {value}")
    capsys.readouterr()
    for command in ("status", "report"):
        assert call([command, str(unfinished)]) == 2
        error = capsys.readouterr().err
        assert "is not a number" in error and "kloc recover" in error and error.count("\n") == 1
    assert call(["recover", str(unfinished), "--out", str(unfinished.with_name("saved"))]) == 0
    assert call(["status", str(unfinished.with_name("saved"))]) == 0


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["status", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"kloc: {tmp_path}: holds no run.sqlite; name a run folder, such as results/smoke\n"
    )


def test_the_most_frequent_reasons_come_first(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(unfinished) as store:
        for case_id in range(100, 120):
            store.add(TRACE, Record(case_id, "excluded", {"reason": f"the greedy answer\nis {'abcdef'[case_id % 6]}"}))
    capsys.readouterr()
    assert call(["status", str(unfinished)]) == 0
    *_, first, _, _, _, last, rest = capsys.readouterr().out.splitlines()
    assert first == "4 excluded: the greedy answer is e" and last == "3 excluded: the greedy answer is c"
    assert rest == "4 more for 2 other reasons"
