"""What a person sees when something goes wrong, and where it is written: one line, an exit code, whole files.

Odd arguments, files that are none, outputs that cannot be written, standard output that is gone, Ctrl-C, and defects.
"""

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artifact.cli import call
from artifact.cli.commands import DEFECT

REFERENCE = Path(__file__).parent / "reference"
EXAMPLE = Path(__file__).parents[1] / "results" / "example-world"
TINY = str(REFERENCE / "models" / "tiny-gpt2")
TRACE = ["trace", "--model", TINY, "--prompt", "The capital of France is", "--subject", "France", "--samples", "1"]
SET = [*TRACE, "--noise", "0.3"]
KLOC = [sys.executable, "-W", "error", "-c", "from artifact.cli import main; main()"]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command says that ends with exit code 2, which is one line that a terminal prints as it stands."""
    monkeypatch.chdir(tmp_path)

    def run(*command: object) -> str:
        assert call([str(word) for word in command]) == 2
        error = capsys.readouterr().err
        assert error.startswith("kloc: ") and error.count("\n") == 1 and error[:-1].isprintable()
        return error

    return run


# Arguments


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["trace", "--model", "\udcff", "--prompt", "a", "--subject", "a"], "'\\udcff': is not UTF-8 text"),
        (["trace", "--model", "", "--prompt", "a", "--subject", "a"], "--model: is given nothing"),
        ([*SET, "--json="], "--json: is given nothing"),
        ([*SET, "--json", "  "], "--json: is given nothing"),
        (["report", ""], "report: is given nothing"),
        (["\x1b[2Jdance"], "\\x1b[2Jdance"),
        (["trace", "--model", "a\u202eb", "--prompt", "a", "--subject", "a"], "\\u202e"),
        (["trace", "--model", "x" * 5000, "--prompt", "a", "--subject", "a"], "xxx...xxx"),
        (["verify", "x/" * 2500], "x/x"),
        ([*SET, "--figure", "f.docx"], "ends in .pdf, .svg or .png"),
        (["smoke", "--shard", "0/0", "--model", TINY], "--shard"),
    ],
)
def test_odd_arguments_are_one_line(command: list[str], says: str, refused: Callable[..., str]) -> None:
    error = refused(*command)
    assert says in error and len(error) < 1000


def test_bytes_that_are_no_text_come_through_a_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [*KLOC, "status", b"\xff"], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **ENVIRONMENT}
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is not UTF-8 text" in done.stderr


@pytest.mark.parametrize("columns", ["0", "3", "-1", "wide", "99999"])
def test_help_is_printed_in_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert call(["trace", "--help"]) == 0
    assert "--prompt" in capsys.readouterr().out


# Files that are read


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    os.mkfifo(folder / "pipe.json")
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00[")
    (folder / "empty.json").write_bytes(b"")
    (folder / "deep.json").write_bytes(b"[" * 100_000 + b"]" * 100_000)
    (folder / "number.json").write_bytes(b"[" + b"1" * 5000 + b"]")
    (folder / "twins.json").write_text('{"lr": 1.0, "lr": 2.0}')
    (folder / "one.json").write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[:1]))
    return folder


ODD = [
    *("pipe.json", "folder.json", "loop.json", "bytes.json", "empty.json", "deep.json", "number.json", "twins.json"),
    *("/dev/zero", "/dev/null", "absent.json", "one.json/x"),
]


@pytest.mark.parametrize("name", ODD)
def test_files_that_are_none_are_refused_at_once_by_every_reader(
    name: str, odd_files: Path, refused: Callable[..., str]
) -> None:
    path, one = odd_files / name, odd_files / "one.json"
    edit = ["edit", "--model", TINY, "--out", "e.st", "--method"]
    for command in (
        [*TRACE, "--facts", path],
        ["score", "--model", TINY, "--cases", path],
        [*edit, "ft", "--request", path],
        [*edit, "ft", "--request", one, "--hparams", path],
        [*edit, "rome", "--request", one, "--prefixes", path],
        [*edit, "mend", "--request", one, "--history", path],
        ["smoke", "--model", TINY, "--facts", path, "--out", "run"],
        ["mend-train", "--model", TINY, "--facts", path, "--out", "n.st"],
    ):
        error = refused(*command)
        assert Path(name).name in error and "fetch" not in error, command
    assert os.listdir() == []


def test_pipes_for_files_of_tensors_and_texts_do_not_hang(odd_files: Path, refused: Callable[..., str]) -> None:
    pipe, one = odd_files / "pipe.safetensors", odd_files / "one.json"
    assert "Is not a regular file" in refused("score", "--model", TINY, "--cases", one, "--edit", pipe)
    mend = ["edit", "--model", TINY, "--method", "mend", "--request", one, "--out", "e.st"]
    assert "Is not a regular file" in refused(*mend, "--mend-weights", pipe)
    assert "Is not a regular file" in refused(
        "moments", "--model", TINY, "--texts", odd_files / "pipe.jsonl", "--out", "m"
    )


def test_what_a_shell_connects_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """`<(...)` of a shell, and /dev/stdin."""
    read, write = os.pipe()
    os.write(write, json.dumps(json.loads((REFERENCE / "facts.json").read_text())[:1]).encode())
    os.close(write)
    try:
        assert call(["score", "--model", TINY, "--cases", f"/dev/fd/{read}"]) == 0
    finally:
        os.close(read)
    assert capsys.readouterr().out.startswith("1 case,")


# Files that are written


def outputs(folder: Path, out: object) -> list[list[object]]:
    """A command for every option that names a file to write."""
    one = folder / "in.json"
    one.write_text(json.dumps(json.loads((REFERENCE / "facts.json").read_text())[:1]))
    return [
        [*SET, "--json", out],
        [*SET, "--figure", f"{out}.png"],
        ["score", "--model", TINY, "--cases", one, "--json", out],
        ["edit", "--model", TINY, "--method", "ft", "--request", one, "--out", out],
        ["compare", EXAMPLE, EXAMPLE, "--csv", out],
        ["baseline", EXAMPLE, "--hardware", "x", "--out", out],
    ]


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed before the refusal")

    for place in ("artifact.cli.app.load_model", "artifact.runs.store.reading"):
        monkeypatch.setattr(place, refuse)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub.png").mkdir()
    for name, says in (
        ("pipe", "Is not a regular file"),
        ("sub", "Is a directory"),
        ("file/x", "Not a directory"),
        ("/proc/nothing/x", "cannot be written"),
        ("n" * 300, "File name too long"),
    ):
        for command in outputs(tmp_path, tmp_path / name):
            assert says in refused(*command), command
    assert sorted(os.listdir(tmp_path)) == ["file", "in.json", "pipe", "pipe.png", "sub", "sub.png"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_is_replaced_and_modes_are_the_umasks(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    mask = os.umask(0o022)
    try:
        for number, command in enumerate(outputs(tmp_path, out := tmp_path / "out")):
            path = Path(f"{out}.png") if "--figure" in command else out
            path.unlink(missing_ok=True)
            path.symlink_to(tmp_path / "mine")
            assert call([str(word) for word in command]) == 0, number
            assert (tmp_path / "mine").read_text() == "mine" and not path.is_symlink()
            assert path.stat().st_mode & 0o777 == 0o644 and path.stat().st_size
    finally:
        os.umask(mask)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for command in outputs(tmp_path, out := tmp_path / "out"):
        path = Path(f"{out}.png") if "--figure" in command else out
        path.write_text("old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            said = refused(*command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert f"{path.name}: cannot be written" in said
        assert path.read_text() == "old" and not list(tmp_path.glob("*.part"))


def test_one_file_is_not_asked_to_hold_two(tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused(*SET, "--json", tmp_path / "a.png", "--figure", tmp_path / "x" / ".." / "a.png")
    assert "is the file of --json, too" in said
    assert call([*SET, "--json", "/dev/null"]) == 0


def test_an_output_does_not_take_the_place_of_an_input(tmp_path: Path, refused: Callable[..., str]) -> None:
    facts = (REFERENCE / "facts.json").read_bytes()
    (tmp_path / "facts.json").write_bytes(facts)
    (tmp_path / "link.json").symlink_to("facts.json")
    for given, out in (
        ("facts.json", "facts.json"),
        ("link.json", "facts.json"),
        ("facts.json", "./x/../facts.json"),
    ):
        assert "would take the place" in refused(*TRACE, "--facts", given, "--json", out)
        assert "would take the place" in refused("score", "--model", TINY, "--cases", given, "--json", out)
    assert "would take the place" in refused(*SET, "--json", f"{TINY}/config.json")
    assert "would take the place" in refused("compare", EXAMPLE, EXAMPLE, "--csv", EXAMPLE / "run.sqlite")
    assert (tmp_path / "facts.json").read_bytes() == facts


# Standard output


def test_json_is_written_though_standard_output_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert call([*SET, "--json", str(tmp_path / "t.json")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("kloc: standard output cannot be written (No space left on device)")
        assert error.count("\n") == 1 and json.loads((tmp_path / "t.json").read_text())["tokens"]
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # what is still unwritten of it


def test_the_process_ends_quietly_though_standard_output_is_full() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*KLOC, "verify", EXAMPLE], stdout=full, stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}
        )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


def test_standard_output_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert call([*SET, "--json", str(tmp_path / "t.json")]) == 2
    assert capsys.readouterr().err.startswith("kloc: standard output cannot be written (it is closed)")
    assert json.loads((tmp_path / "t.json").read_text())["tokens"]


def test_a_reader_that_leaves_is_no_error() -> None:
    for command in (["verify", EXAMPLE], ["--help"]):
        with subprocess.Popen(
            [*KLOC, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT},
        ) as process:
            assert process.stdout and process.stderr
            process.stdout.close()
            assert (process.stderr.read(), process.wait(60)) == (b"", 0)


def test_an_encoding_without_a_character_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    (tmp_path / "é\x1b[2J.json").write_bytes((REFERENCE / "facts.json").read_bytes())
    command = [*TRACE, "--facts", str(tmp_path / "é\x1b[2J.json"), "--json", str(tmp_path / "t.json")]
    assert call(command) == 0
    assert b"\\xe9\\x1b[2J.json" in written.getvalue() and b"\x1b" not in written.getvalue()
    assert json.loads((tmp_path / "t.json").read_text())["tokens"]


# Ctrl-C


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.6])
def test_ctrl_c_while_modules_load_is_one_line(seconds: float) -> None:
    code = "import sys; sys.argv = ['kloc', *sys.argv[1:]]; print('begun', flush=True)\n"
    code += "from artifact.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *TRACE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    ) as process:
        assert process.stdout and process.stderr and process.stdout.readline() == "begun\n"
        time.sleep(seconds)
        for _ in range(2):  # once more, while the first is answered
            process.send_signal(signal.SIGINT)
        error, code_found = process.stderr.read(), process.wait(60)
    assert (code_found, error.count("\n")) in ((3, 1), (0, 0)), error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_within_an_import_ends_the_process(name: str, tmp_path: Path) -> None:
    """A module that is being loaded may swallow KeyboardInterrupt, or wrap it into an error of its own."""
    (tmp_path / "swallows.py").write_text(
        f"import os, signal\ntry:\n    os.kill(os.getpid(), signal.{name})\nexcept BaseException:\n    pass\n"
    )
    assert _stopped_within("import swallows; print('went on')", tmp_path) == 3


def test_a_scheduler_s_sigterm_ends_as_ctrl_c_does(tmp_path: Path) -> None:
    assert _stopped_within("os.kill(os.getpid(), signal.SIGTERM); print('went on')", tmp_path) == 3


def _stopped_within(work: str, folder: Path) -> int:
    """The exit code of a command that does this work, which must end in one line."""
    code = "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import artifact.cli as cli\n"
    code += "from artifact.cli import commands\n"
    code += f"def load(arguments): {work}; return 0\n"
    code += "commands.app, sys.argv[1:] = load, ['trace']; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}
    )
    assert (done.stdout, done.stderr) == ("", "kloc: stopped; the same command goes on from what was stored\n")
    return done.returncode


# Defects


def test_a_defect_has_a_code_of_its_own_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of \x1b[2Jus")

    monkeypatch.setattr("artifact.cli.app.load_model", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert call(SET) == DEFECT == 70
    (log,) = tmp_path.iterdir()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "ZeroDivisionError: of ?[2Jus" in error and str(log) in error
    told = log.read_text()
    assert "Traceback" in told and 'raise ZeroDivisionError("of' in told and told.startswith("kloc-artifact ")

    monkeypatch.setattr("artifact.cli.commands.write_atomically", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert call(SET) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error and "\x1b" not in error


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "/x/y: No space left on device"),
        (MemoryError(), 2, "memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), 2, "memory does not suffice"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Broken pipe"),  # a connection's: standard output is there
        (KeyboardInterrupt(), 3, "stopped"),
        (OSError(errno.EBADF, "Bad file descriptor"), 70, "a defect of this package"),
        (RecursionError(), 70, "a defect of this package"),
        (type("PanicException", (BaseException,), {})("index out of range"), 2, "(index out of range); give another"),
    ],
)
def test_what_is_whose_fault(
    error: BaseException, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("artifact.cli.app.load_model", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert call(SET) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
