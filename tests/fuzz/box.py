"""The folders that a case runs in, and what changed in them: a command may write to `out`, a fetch to the caches."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDERS = ("in", "out", "home", "tmp", "cwd", "cache", "hub", "elsewhere")


class Box:
    """`in` holds the inputs, `out` what was asked for; nothing may appear or change in the other folders.

    `elsewhere` stands for the rest of the disk: names and links of the inputs lead there. A file `canary` in it says
    that code out of an input was run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.material = root / "material"
        self.logs = root / "logs"

    def __getattr__(self, name: str) -> Path:
        if name not in FOLDERS:
            raise AttributeError(name)
        return self.root / "box" / name

    def __getitem__(self, name: str) -> Path:
        return self.root / "box" / "in" / name

    @property
    def canary(self) -> Path:
        return self.elsewhere / "canary"

    def command(self, line: str) -> list[str]:
        """The words of a command line; those that begin with `in/` or `out/` are places of the box."""
        at = self.root / "box"
        return [str(at / word) if word.startswith(("in/", "out/")) else word for word in line.split()]

    def environment(self) -> dict[str, str]:
        """What keeps a process in the box and off every network but loopback."""
        scratch = str(self.root / "scratch")
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "KLOC_CACHE": str(self.cache),
            "HF_HOME": str(self.hub),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "MPLCONFIGDIR": scratch,
            "TORCHINDUCTOR_CACHE_DIR": scratch,
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def empty(self) -> None:
        """Empty folders, with a precious file elsewhere."""
        shutil.rmtree(self.root / "box", ignore_errors=True)
        for name in FOLDERS:
            (self.root / "box" / name).mkdir(parents=True)
        for folder in (self.logs, self.root / "scratch"):
            folder.mkdir(exist_ok=True)
        (self.elsewhere / "precious").write_text("precious")

    def put(self, needs: dict[str, str]) -> None:
        """Pristine inputs: material by the name that it gets in `in`."""
        for name, source in needs.items():
            path, target = self.material / source, self[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)

    def listing(self, allowed: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
        """Every file of the box with size, mode, time of its last change and link, but for `allowed` places."""
        base = str(self.root / "box")
        may = tuple(os.path.join(base, one) for one in allowed)
        found = {}
        for folder, folders, files in os.walk(base):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                if path.startswith(may):
                    continue
                info = os.lstat(path)
                link = os.readlink(path) if os.path.islink(path) else None
                same = (info.st_size, info.st_mtime_ns) if name in files else ()
                found[os.path.relpath(path, base)] = (info.st_mode, *same, link)
        return found


def written(name: str, content: bytes) -> Callable[[Box], None]:
    """The damage that writes `content` in place of an input."""

    def write(box: Box) -> None:
        box[name].write_bytes(content)

    return write


@dataclass
class Case:
    """A command line over inputs of the box, and how the damage of them is judged.

    `expect` of a run that ends with 0: "equal" (to the pristine inputs' results), "free" (any finite ones), "others"
    (`check` compares those that the damage does not touch), "refused" (it must not end with 0). Results are what stands
    in `out` and, with `fetches`, in the caches that it may write to.
    """

    kind: str
    words: str
    arguments: list[str]
    expect: str = "equal"
    needs: dict[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ("out",)
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    damage: Any = None
    check: Any = None
    judged: bool = False
    stdout_counts: bool = False
    several_lines: bool = False
    host: Any = None
    fetches: bool = True
    process: tuple[str, float] | None = None
