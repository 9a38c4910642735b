"""Files are written whole or not at all, locks refuse links and pipes, an exception becomes one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifact.io import (
    check_writable,
    locked,
    new_folder,
    open_regular,
    place_of,
    reason,
    replacing,
    sha256_of,
    write_atomically,
)


def test_a_file_is_written_whole_with_the_mode_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert sha256_of(path) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"one" and os.listdir(path.parent) == ["file.json"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    old, new, others = (tmp_path / f"{name}.part" for name in ("file.json.12", "file.json.13", "file.csv.12"))
    for part in (old, new, others):
        part.write_bytes(b"half")
    for part in (old, others):
        os.utime(part, (1e9, 1e9))
    write_atomically(tmp_path / "file.json", b"one")
    assert not old.exists() and new.exists() and others.exists()


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(RuntimeError), new_folder(path) as part:
        (part / "half").write_bytes(b"")
        raise RuntimeError
    assert os.listdir(path.parent) == []
    old, under_way = (path.with_name(f"folder.{name}.part") for name in ("old", "new"))
    for left in (old, under_way):
        left.mkdir()
        (left / "half").write_bytes(b"")
    for left in (old, old / "half", under_way):
        os.utime(left, (1e9, 1e9))
    with new_folder(path) as part:
        (part / "whole").write_bytes(b"ours")
        assert not path.exists()
    assert (path / "whole").read_bytes() == b"ours" and path.stat().st_mode == path.parent.stat().st_mode
    with new_folder(path) as part:
        (part / "whole").write_bytes(b"others")
    assert (path / "whole").read_bytes() == b"ours" and sorted(os.listdir(path.parent)) == ["folder", under_way.name]


def test_only_regular_files_are_opened_and_none_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"one"
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="Is a directory|Is not a regular file"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "out", b"new")
    assert (tmp_path / "other").read_text() == "mine" and (tmp_path / "out").read_text() == "new"
    assert not (tmp_path / "out").is_symlink()


def test_what_is_not_a_file_is_refused_and_a_device_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        write_atomically(tmp_path / "pipe", b"")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"")
    write_atomically(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_device_is_not_replaced_by_what_a_library_puts_in_its_place(tmp_path: Path) -> None:
    with replacing(Path("/dev/null")) as part:
        (tmp_path / "new").write_bytes(b"new")
        os.replace(tmp_path / "new", part)
    assert Path("/dev/null").is_char_device()


def test_standard_output_gets_the_content_where_it_stands(tmp_path: Path) -> None:
    """Redirected to a file, what was said before is not cut, and what follows does not cut."""
    code = "from pathlib import Path; from artifact.io import check_writable, write_atomically\n"
    code += "out = Path('/dev/stdout'); print('one'); check_writable(out)\n"
    code += "write_atomically(out, b'two\\n'); print('three')"
    with (tmp_path / "out").open("wb") as out:
        out.write(b"zero\n")
        out.flush()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], check=True, stdout=out, timeout=60, env=environment)
    assert (tmp_path / "out").read_text() == "zero\none\ntwo\nthree\n"
    assert Path("/dev/stdout").is_symlink()


def test_whether_a_file_could_be_written_is_known_before_and_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep" / "file")
    (tmp_path / "old").write_bytes(b"old")
    check_writable(tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"
    os.mkfifo(tmp_path / "pipe")
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "pipe", FileExistsError),
        (tmp_path / "old" / "file", NotADirectoryError),
        (Path("/proc/nothing/file"), OSError),
        (tmp_path / "new" / ("n" * 300), OSError),
    ):
        with pytest.raises(error):
            check_writable(path)
    assert sorted(os.listdir(tmp_path)) == ["old", "pipe"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("字" * 85)  # 255 bytes
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one" and len(os.listdir(tmp_path)) == 1


def test_where_a_file_will_stand(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder" / "name").symlink_to("elsewhere")
    assert place_of(tmp_path / "link" / "name") == place_of(tmp_path / "folder" / ".." / "folder" / "name")
    assert place_of(tmp_path / "link" / "name").name == "name"


def test_a_lock_is_held_by_one_process_and_refuses_links_and_pipes(tmp_path: Path) -> None:
    waited: list[str] = []
    code = "import sys, time; from pathlib import Path; from artifact.io import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdin and process.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError), locked(tmp_path / "lock", 0, lambda: waited.append("one")):
        pass
    process.stdin.close()
    with locked(tmp_path / "lock", 60, lambda: waited.append("two")):
        pass
    process.stdout.close()
    assert process.wait(60) == 0 and waited[0] == "one"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link"):
        with pytest.raises(FileExistsError), locked(tmp_path / name):
            pass
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n first \nsecond"), "first"),
        (KeyError(), "KeyError"),
        (OSError(28, "No space left on device", "x"), "No space left on device"),
        (ValueError("a\x1b[2Jb"), "a?[2Jb"),
        (ValueError("x" * 500), "x" * 157 + "..."),
    ],
)
def test_an_exception_becomes_one_line(error: Exception, said: str) -> None:
    assert reason(error) == said


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
