"""Cases by kind and number, given to a process that runs them; what it found, with the command that repeats each."""

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WALL_SECONDS = 120.0
"""More than any case takes, on a busy machine, too: what has not ended by then hangs."""
ROOT = Path(__file__).parents[2]


@dataclass
class Finding:
    """What is wrong with a case."""

    kind: str
    seed: int
    number: int
    words: str
    command: str
    found: list[str]
    said: str = ""

    def __str__(self) -> str:
        again = f"python -m tests.fuzz --seed {self.seed} --only {self.kind} --case {self.number} --keep"
        return "\n".join(
            [
                f"{self.kind}: {self.words}",
                *(f"  {one}" for one in self.found),
                f"  again: {again}",
                f"  {self.command}",
            ]
        )


class Driver:
    """Gives cases to a worker. `folder` is made and removed unless one is named.

    Without `draws` reports hold empty figures: drawing takes as long as all else.
    """

    def __init__(self, folder: Path | None = None, draws: bool = True) -> None:
        self._kept, self._draws = folder is not None, draws
        self.folder = folder or Path(tempfile.mkdtemp(prefix="kloc-fuzz-"))
        self._worker: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self.slowest: list[tuple[float, str, int]] = []
        self.codes: dict[tuple[str, Any], int] = {}

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def case(self, kind: str, seed: int, number: int) -> Finding | None:
        """What is wrong with a case, or None."""
        worker = self.started()
        assert worker.stdin is not None
        worker.stdin.write(json.dumps([kind, seed, number]).encode() + b"\n")
        worker.stdin.flush()
        told: dict[str, Any] = {"words": "it could not be made", "command": [], "env": {}}
        try:
            told = self._answer(WALL_SECONDS)
            told = self._answer(WALL_SECONDS)
            self.slowest = sorted([*self.slowest, (told["seconds"], kind, number)])[-5:]
        except TimeoutError:
            told["found"] = [f"hung: no end after {WALL_SECONDS:.0f} s"]
            self._stop()
        except EOFError:
            code = worker.wait()
            last = (self.folder / "worker").read_text("utf-8", "replace").strip().splitlines()[-1:]
            told["found"] = [f"the process ended with {code}: {last}"]
            self._stop()
        self.codes[kind, told.get("code")] = self.codes.get((kind, told.get("code")), 0) + 1
        if not told["found"]:
            return None
        env = "".join(f"{name}={shlex.quote(value)} " for name, value in told["env"].items())
        command = f"{env}kloc {shlex.join(told['command'])}".replace(str(self.folder / "box"), "BOX")
        return Finding(kind, seed, number, told["words"], command[:1500], told["found"], told.get("said", ""))

    def started(self) -> "subprocess.Popen[bytes]":
        """The process that runs cases, with everything that they need made."""
        if self._worker is None:
            paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "tests")]
            with (self.folder / "worker").open("wb") as said:
                self._worker = subprocess.Popen(
                    [sys.executable, "-m", __package__ + ".worker", str(self.folder), *["undrawn"][self._draws :]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
                )
            self._rest = b""
            try:
                assert self._answer(600.0) == "ready"
            except EOFError:
                raise RuntimeError((self.folder / "worker").read_text("utf-8", "replace")) from None
        return self._worker

    def _answer(self, seconds: float) -> Any:
        worker = self._worker
        assert worker is not None and worker.stdout is not None
        while b"\n" not in self._rest:
            if not select.select([worker.stdout], [], [], seconds)[0]:
                raise TimeoutError
            block = os.read(worker.stdout.fileno(), 1 << 16)
            if not block:
                raise EOFError
            self._rest += block
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            for stream in (self._worker.stdin, self._worker.stdout):
                if stream is not None:
                    stream.close()
            self._worker = None
