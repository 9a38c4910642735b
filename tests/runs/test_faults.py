"""What can go wrong with a long run: kills, full and read-only disks, clocks, two at once, copies, what is no journal.

Each is said in one line, changes nothing that was stored, and ends in the records of a run to which nothing happened.
"""

import ctypes
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import cheap
import pytest
from cheap import MANY_CASES, PLAN, Cheap, contents, description, made_up, refusing, run

from artifact.cli import call
from artifact.errors import Interrupted, RunError
from artifact.runs.store import reading, writing


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happened."""
    return run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def kloc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line on the cheap engine: what a command that ends with exit code 2 says, which is one line."""
    monkeypatch.setattr("artifact.runs.runner.local_engine", lambda *_: Cheap())
    return refusing(capsys)


def stopped(folder: Path, batches: int = 11) -> Path:
    """A run that the user stopped after some batches."""
    with pytest.raises(Interrupted):
        run(folder, Cheap(stop=batches))
    return folder


def test_a_run_to_which_nothing_happened(whole: Path) -> None:
    assert contents(whole) == made_up(description())


def test_killed_at_any_moment_it_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", cheap.__file__, tmp_path / "run", "20", "3"]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **paths})
    assert done.returncode == 0, done.stderr
    assert "killed 20 times" in done.stdout
    info = description(MANY_CASES)
    run(tmp_path / "run", Cheap(info))
    assert contents(tmp_path / "run") == made_up(info)


def test_killed_in_the_middle_of_a_write_it_can_be_read_at_once(tmp_path: Path, kloc: Callable[..., str]) -> None:
    folder = stopped(tmp_path / "run")
    before = contents(folder)
    _kill_in_a_write(folder)
    assert (folder / "run.sqlite-journal").stat().st_size > 0
    for there in (shutil.copytree(folder, tmp_path / "copy"), folder):
        assert contents(there) == before
    assert call(["status", str(folder)]) == 0


def _kill_in_a_write(folder: Path) -> None:
    """Leave a transaction half in the file, as a process does that dies there."""
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma cache_size = 1')\n"
        "c.execute('begin'); c.execute('delete from records where case_id % 2')\n"
        "c.execute(\"update records set payload = 'gone'\"); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder / "run.sqlite"], timeout=60).returncode == -9


@pytest.mark.parametrize("room", [1, 20_000, 100_000])
def test_a_file_that_may_not_grow_is_said_and_the_run_goes_on_later(
    room: int, whole: Path, tmp_path: Path, kloc: Callable[..., str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        said = kloc("smoke", "--model", "world", "--out", tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written" in said and "free disk space" in said
    run(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 kB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk; test_a_file_that_may_not_grow covers the same")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_after_space_is_freed(
    small_disk: Path, whole: Path, tmp_path: Path, kloc: Callable[..., str]
) -> None:
    said = kloc("smoke", "--model", "world", "--out", small_disk / "run")
    assert "run.sqlite: cannot be written (database or disk is full); free disk space" in said
    stored = contents(small_disk / "run")
    assert 0 < sum(map(len, stored.values())) < sum(map(len, contents(whole).values()))
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    run(small_disk / "run")
    assert contents(small_disk / "run") == contents(whole)


@contextmanager
def kept_out() -> Iterator[None]:
    """Root without its right to pass over permissions; as the owner it can still read a checkout of its own."""
    if os.geteuid() != 0:
        yield
        return
    before = _capabilities()
    _set_capabilities(before & ~(1 << _DAC_OVERRIDE))
    try:
        yield
    finally:
        _set_capabilities(before)


_DAC_OVERRIDE, _VERSION_3 = 1, 0x20080522  # linux/capability.h


def _capabilities() -> int:
    (effective,) = re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    return int(effective, 16)


def _set_capabilities(effective: int) -> None:
    """The effective capabilities of this thread; those it may take back stay permitted."""
    (permitted,) = re.findall(r"CapPrm:\s*(\w+)", Path("/proc/self/status").read_text())
    words = [(value >> shift) & 0xFFFFFFFF for shift in (0, 32) for value in (effective, int(permitted, 16), 0)]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)(*words)):
        raise OSError(ctypes.get_errno(), "capset")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A stopped run that can be read by everybody and written by nobody."""
    base = Path(tempfile.mkdtemp())
    folder = stopped(base / "run")
    base.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(base)


def test_a_read_only_run_is_read_and_not_resumed(read_only: Path, kloc: Callable[..., str]) -> None:
    before = {path.name: path.read_bytes() for path in read_only.iterdir()}
    stored = contents(read_only)
    with kept_out():
        assert contents(read_only) == stored
        assert call(["status", str(read_only)]) == call(["verify", str(read_only)]) == 0
        said = kloc("smoke", "--model", "world", "--out", read_only)
    assert "cannot be written (Permission denied); name a folder you own" in said
    assert {path.name: path.read_bytes() for path in read_only.iterdir()} == before


def test_a_half_written_journal_in_a_read_only_folder_is_no_damage(read_only: Path, kloc: Callable[..., str]) -> None:
    for path in (read_only, read_only / "run.sqlite"):
        path.chmod(0o755)
    _kill_in_a_write(read_only)
    (read_only / "run.sqlite-journal").chmod(0o444)
    read_only.chmod(0o555)
    (read_only / "run.sqlite").chmod(0o444)
    with kept_out():
        said = kloc("status", read_only)
    assert "killed in the middle of a write" in said and "copy the folder" in said and "recover" not in said


def test_a_clock_that_jumps_back_harms_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = count(300, -60)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    run(stopped(tmp_path / "run"))
    monkeypatch.undo()
    assert contents(tmp_path / "run") == contents(whole)
    with reading(tmp_path / "run") as store, reading(whole) as other:
        assert store.times() == other.times()
        ((lowest,),) = store.rows("select min(ended) from times")
        assert store.last_time() == lowest < 0  # the newest, not the latest
    assert call(["status", str(tmp_path / "run")]) == 0
    assert "newest batch stored 1969-12-31 23:" in capsys.readouterr().out


def test_two_at_once(whole: Path, tmp_path: Path, kloc: Callable[..., str]) -> None:
    folder = stopped(tmp_path / "run")
    code = "import sys; from pathlib import Path; from artifact.runs.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        said = kloc("smoke", "--model", "world", "--out", folder)
        first.kill()
    assert f"is in use by process {first.pid} on {socket.gethostname()}; wait for it" in said
    run(folder)  # the lock of a killed process is nobody's
    assert contents(folder) == contents(whole)


def test_a_copied_folder_goes_on_and_the_first_stays(whole: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run")
    before = contents(folder)
    with writing(folder):  # even copied while a process works on it
        copy = shutil.copytree(folder, tmp_path / "else where?#%41")
    run(copy)
    assert contents(copy) == contents(whole)
    assert contents(folder) == before


def test_a_journal_that_was_emptied_is_not_begun_anew_unasked(tmp_path: Path, kloc: Callable[..., str]) -> None:
    folder = stopped(tmp_path / "run")
    (folder / "run.sqlite").write_bytes(b"")
    assert "the run never started" in kloc("status", folder)
    assert "run.json tells of a run that run.sqlite does not hold" in kloc("smoke", "--model", "world", "--out", folder)
    (folder / "run.sqlite").unlink()
    assert "remove run.json to begin anew" in kloc("smoke", "--model", "world", "--out", folder)


def test_an_empty_journal_of_a_run_that_never_began_is_used(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.sqlite").touch()
    assert contents(run(tmp_path / "run")) == contents(whole)


def test_a_folder_in_the_journals_place(tmp_path: Path, kloc: Callable[..., str]) -> None:
    (tmp_path / "run.sqlite").mkdir()
    assert "holds no run.sqlite" in kloc("status", tmp_path)
    assert "run.sqlite: cannot be opened" in kloc("smoke", "--model", "world", "--out", tmp_path)


def test_the_database_of_another_program_is_left_alone(tmp_path: Path, kloc: Callable[..., str]) -> None:
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as other, other:
        other.execute("create table bookmarks (url text)")
    other.close()
    before = (tmp_path / "run.sqlite").read_bytes()
    for command in (("smoke", "--model", "world", "--out"), ("verify",), ("status",)):
        assert "is the database of another program (tables bookmarks)" in kloc(*command, tmp_path)
    assert (tmp_path / "run.sqlite").read_bytes() == before


def test_a_journal_of_an_earlier_version_goes_on(whole: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run")
    with closing(sqlite3.connect(folder / "run.sqlite")) as journal, journal:
        journal.execute("alter table times drop column ended")
    journal.close()
    with reading(folder) as store:
        assert store.last_time() is None and store.times()
    assert contents(run(folder)) == contents(whole)
    with reading(folder) as store:
        assert store.last_time() == pytest.approx(time.time(), abs=600)


def test_a_reader_does_not_stop_the_writer(tmp_path: Path) -> None:
    with writing(stopped(tmp_path / "run")) as store, reading(tmp_path / "run") as reader:
        for case_id in range(110, 120):
            store.add(PLAN.units[3], cheap.record(PLAN.units[3], case_id))
            assert case_id in reader.done(PLAN.units[3])


def test_another_error_than_damage_is_not_called_damage(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    with reading(tmp_path / "run") as store:
        store.connection.execute("pragma busy_timeout = 0")
        other = sqlite3.connect(tmp_path / "run" / "run.sqlite")
        other.execute("begin exclusive")
        with pytest.raises(RunError, match="another process is writing to it; try again"):
            store.counts()
        other.close()
