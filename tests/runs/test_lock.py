"""The lock of a run folder: who holds it, what cannot be a lock, and file systems that have none."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cheap import Cheap, contents, description, made_up, refusing, run

from artifact.cli import call
from artifact.errors import RunError
from artifact.progress import Display
from artifact.reporting.report import render
from artifact.runs import lock, runner
from artifact.runs.lock import holder, locked, turn
from artifact.runs.resolve import Asked
from artifact.runs.runner import run_plan
from artifact.runs.store import Store, reading


@pytest.fixture
def kloc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    monkeypatch.setattr("artifact.runs.runner.local_engine", lambda *_: Cheap())
    return refusing(capsys)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_in_use(
    code: int, tmp_path: Path, kloc: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "run")

    def none(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", none)
    said = kloc("smoke", "--model", "world", "--out", folder)
    assert "its file system has no locks" in said and "in use" not in said and "on another disk" in said
    assert holder(folder) is None
    for command in ("status", "report", "verify"):
        assert call([command, str(folder)]) == 0
    assert (folder / "report" / "report.html").is_file()


def test_a_lock_that_is_no_file_is_one_line_at_once(tmp_path: Path, kloc: Callable[..., str]) -> None:
    folder = run(tmp_path / "run")
    (folder / "run.lock").unlink()
    began = time.monotonic()
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)):
        make(folder / "run.lock")
        assert "run.lock: is not a regular file and cannot be a lock; remove it" in kloc(
            "smoke", "--model", "world", "--out", folder
        )
        assert holder(folder) is None and call(["status", str(folder)]) == 0
        (os.rmdir if (folder / "run.lock").is_dir() else os.unlink)(folder / "run.lock")
    assert time.monotonic() - began < 20


def test_who_holds_it_is_printed_without_control_characters(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "run.lock").write_bytes(b"process 1 on \x1b[31mhost\n\xff")
        assert holder(tmp_path) == r"process 1 on \x1b[31mhost\n" + "\ufffd"
    assert holder(tmp_path) is None


def test_a_look_does_not_disturb_a_run_that_begins(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from artifact.runs.lock import holder\n"
    code += "print('looks', flush=True)\nwhile True: holder(Path(sys.argv[1]))"
    with locked(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as looks:
        assert looks.stdout is not None and looks.stdout.readline() == "looks\n"
        for _ in range(5):
            with locked(tmp_path):
                pass
        looks.kill()


def test_two_reports_take_turns(tmp_path: Path) -> None:
    """A report that another one writes beside it would lose its unfinished files to it."""
    folder = run(tmp_path / "run")
    report = folder / "report"
    with reading(folder) as store:
        render(store)
        part = report / "report.html.1.part"
        done = threading.Event()

        def second() -> None:
            with reading(folder) as own:
                render(own)
            done.set()

        with turn(report) as alone:
            assert alone
            part.write_bytes(b"half a page")
            thread = threading.Thread(target=second)
            thread.start()
            assert not done.wait(0.5) and part.exists()
        thread.join(60)
        assert done.is_set() and not part.exists()


def test_a_report_that_never_ends_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_TURN", 0.1)
    with (
        turn(tmp_path),
        pytest.raises(RunError, match="another process has been writing a report there"),
        turn(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "error", [RunError("no disk\nleft"), OSError(28, "No space left"), ZeroDivisionError("defect")]
)
def test_a_report_on_the_way_never_stops_a_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(store: Store) -> None:
        raise error

    monkeypatch.setattr(runner, "SECONDS_BETWEEN_REPORTS", -1.0)
    run_plan(
        cheap_plan := description().plan, Asked("world"), show=Display(), out=tmp_path, engine=lambda *_: Cheap(),
        report=fails,
    )  # fmt: skip
    assert contents(tmp_path) == made_up(description())
    assert capsys.readouterr().out.count("no report this time (") == len(cheap_plan.units)


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path: Path, kloc: Callable[..., str]) -> None:
    """Other files of that ending are a download's, or what another process is writing."""
    folder, own = run(tmp_path / "run"), tmp_path / "own"
    left = folder / "report" / "verdict.json.4242.part"
    others = [own / "a.pt.part", own / "tables" / "score.json.42.part", own / "report.html.mine.part"]
    for path in (left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    for place in ((), ("--out", own)):
        assert call([str(word) for word in ("report", folder, *place)]) == 0
    assert not left.exists() and (own / "report.html").is_file()
    assert all(path.exists() for path in others)
