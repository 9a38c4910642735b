"""Everything that is deposited: a source archive, a results archive, the wheel, its parts by hash, and checksums.

    python release/archive.py OUT [RUN...]        (RUN: run folders; default: those that come with the source)

Two calls on one commit give the same bytes: names are sorted, times are the commit's, owners and compression times are
left out. Needs git, pip, and `kloc` beside the Python that runs it; `nox -s archive` sees to that. `--try` then
downloads the wheels by name and hash, and proves the archives: a new environment without a package index unpacks them,
installs, renders the report of the run again and makes a short run.
"""

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from hashlib import sha256
from pathlib import Path

from artifact.facts.croissant import PUBLISHED

ROOT = Path(__file__).parents[1]
SUMS = "SHA256SUMS"
NOT_KEPT = ("run.lock", ".lock")


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout


def packed(tar: bytes) -> bytes:
    return gzip.compress(tar, mtime=0)


def source_archive(top: str) -> bytes:
    """The files of the commit at HEAD, below one folder."""
    return packed(git("archive", "--format=tar", f"--prefix={top}/", "HEAD"))


def committed_runs() -> list[Path]:
    """The run folders that come with the source."""
    return [ROOT / Path(line).parent for line in git("ls-files", "results/*/run.json").decode().splitlines()]


def folder_archive(folder: Path, top: str, time: int) -> bytes:
    """All files of a folder, below one folder: by name, all of one time and of nobody."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_KEPT):
            entry = tarfile.TarInfo(f"{top}/{path.relative_to(folder)}")
            entry.size, entry.mtime, entry.mode = path.stat().st_size, time, 0o644
            with path.open("rb") as stream:
                tar.addfile(entry, stream)
    return packed(made.getvalue())


def gather_results(folder: Path, runs: list[Path]) -> None:
    """Runs with their reports and crates, and the facts with their descriptions, in `folder`."""
    for run in runs:
        place = folder / "results" / run.name
        place.mkdir(parents=True)
        for name in ("run.json", "run.sqlite"):
            (place / name).write_bytes((run / name).read_bytes())
        kloc("report", str(place))
    facts = folder / "facts"
    facts.mkdir()
    (facts / "facts.json").write_bytes((ROOT / "artifact/facts/data/world/facts.json").read_bytes())
    for name in ("world", *PUBLISHED):
        kloc("facts", "describe", name, "--out", str(facts / f"{name}.croissant.json"))


def kloc(*arguments: str, bin_folder: Path | None = None) -> None:
    program = (bin_folder or Path(sys.executable).parent) / "kloc"
    subprocess.run([str(program), *arguments], check=True)


def pip(*arguments: str, python: str = sys.executable, **more: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], check=True, env=os.environ | more)


def build(out: Path, runs: list[Path]) -> str:
    """Write everything into `out`; returns the folder that the archives unpack to."""
    time = int(git("log", "-1", "--format=%ct"))
    os.environ["SOURCE_DATE_EPOCH"] = str(time)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(scratch, "source")
        subprocess.run(["tar", "-xz", "-C", scratch], input=source_archive("source"), check=True)
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(clean))
        (wheel,) = out.glob("kloc_artifact-*.whl")
        top = "-".join(("kloc-artifact", wheel.name.split("-")[1]))
        (out / f"{top}-source.tar.gz").write_bytes(source_archive(top))
        results = Path(scratch, "results")
        results.mkdir()
        gather_results(results, runs)
        (out / f"{top}-results.tar.gz").write_bytes(folder_archive(results, f"{top}-results", time))
        report = Path(scratch, "report.json")
        dry = ("--dry-run", "--ignore-installed", "--quiet", "--report", str(report))
        pip("install", *dry, "-c", str(ROOT / "constraints.txt"), str(clean))
        subprocess.run([sys.executable, str(ROOT / "release" / "parts.py"), str(out), str(report)], check=True)
    write_sums(out)
    return top


def write_sums(out: Path) -> None:
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name != SUMS)
    sums = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / SUMS).write_text("".join(sums))


def prove(out: Path, top: str) -> None:
    """Unpack and run what was built, in a new environment that no package index serves."""
    wheels = out / "wheels"
    locked = ("--require-hashes", "-r", str(out / "requirements.txt"))
    pip("download", "--quiet", "--dest", str(wheels), *locked)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=out, check=True)
        for kind in ("source", "results"):
            subprocess.run(["tar", "-xzf", str(out / f"{top}-{kind}.tar.gz"), "-C", scratch], check=True)
        place = Path(scratch, "venv")
        venv.create(place, with_pip=True)
        # The settings of this machine's pip, which may name an index, are not read.
        offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        python = str(place / "bin" / "python")
        pip("install", "--quiet", "--no-compile", *locked, python=python, **offline)
        (wheel,) = out.glob("kloc_artifact-*.whl")
        pip("install", "--quiet", "--no-deps", str(wheel), python=python, **offline)
        run = Path(scratch, f"{top}-results", "results")
        for folder in sorted(run.iterdir()):
            before = (folder / "report" / "verdict.json").read_bytes()
            kloc("report", str(folder), bin_folder=place / "bin")
            kloc("verify", str(folder), bin_folder=place / "bin")
            assert (folder / "report" / "verdict.json").read_bytes() == before, "another verdict than before"
        smoke = ("smoke", "--model", "world", "--limit", "2", "--out", str(Path(scratch, "run")))
        kloc(*smoke, bin_folder=place / "bin")
    print(f"{out}: unpacked, installed from {len(list(wheels.iterdir()))} wheels by hash, and run without an index")


def main(arguments: list[str]) -> int:
    proving, names = "--try" in arguments, [word for word in arguments if word != "--try"]
    if not names:
        print("give a folder to write to: python release/archive.py OUT [RUN...] [--try]", file=sys.stderr)
        return 2
    out = Path(names[0]).absolute()
    if git("status", "--porcelain").strip():
        print("the working tree has changes: the archives hold the last commit without them", file=sys.stderr)
    top = build(out, [Path(name) for name in names[1:]] or committed_runs())
    print((out / SUMS).read_text(), end="")
    if proving:
        prove(out, top)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
