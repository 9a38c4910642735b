"""docs/extend.md holds: its files, and the one line it changes for each, make the package know them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import artifact

ROOT = Path(artifact.__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "extend.md").read_text()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's package to which all that the document adds is added."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("artifact", "paper", "expected"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for where, content in re.findall(r"Save it as\s+`([^`]+)`:\n\n```python\n(.*?)```", DOCUMENT, re.DOTALL):
        assert not (copy / where).exists()
        (copy / where).write_text(content)
    for where, removed, added in re.findall(r"`([^`]+)`:\n\n```diff\n-(.*)\n\+(.*)\n```", DOCUMENT):
        before = (copy / where).read_text()
        assert before.count(f"{removed}\n") == 1, f"{where} has no line {removed}"
        (copy / where).write_text(before.replace(f"{removed}\n", f"{added}\n"))
    return copy


def kloc(folder: Path, *words: object) -> str:
    code = "import sys; from artifact.cli import main; sys.argv[0] = 'kloc'; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    here = os.environ | {"PYTHONPATH": str(folder)}
    ran = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_table_has_its_row() -> None:
    rows = re.findall(r"^\| an? [^|]+\| `([^`]+)`[^|]*\| ([^|]+)\|", DOCUMENT, re.MULTILINE)
    assert len(rows) >= 2
    for file, line in rows:
        assert (ROOT / file).parent.is_dir() and (ROOT / re.findall(r"`([^`]+\.py)`", line)[0]).is_file()


def test_a_method(extended: Path) -> None:
    assert "direct" in kloc(extended, "edit", "--help") and "direct" in kloc(extended, "bench", "edit", "--help")
    out = extended / "run"
    words = ("run", "smoke", "--model", "world", "--limit", "3", "--methods", "direct", "--only", "table2")
    kloc(extended, *words, "--out", out)
    page = (out / "report" / "report.md").read_text()
    assert re.search(r"entity edit.*Direct", page)
