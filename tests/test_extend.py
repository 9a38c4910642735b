"""docs/extend.md holds: its files, and the one line it changes for each, make the package know them."""

import json
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


def python(folder: Path, code: str, *words: object, expected: int = 0) -> str:
    """What code prints with the package in that folder: what it answers, or the error that is expected."""
    command, here = [sys.executable, "-c", code, *map(str, words)], os.environ | {"PYTHONPATH": str(folder)}
    ran = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=120)
    assert ran.returncode == expected, ran.stderr
    return ran.stderr if expected else ran.stdout


def kloc(folder: Path, *words: object, code: int = 0) -> str:
    start = "import sys; from artifact.cli import main; sys.argv[0] = 'kloc'; main()"
    return python(folder, start, *words, expected=code)


def test_every_table_has_its_row() -> None:
    rows = re.findall(r"^\| an? [^|]+\| `([^`]+)`[^|]*\| ([^|]+)\|", DOCUMENT, re.MULTILINE)
    assert len(rows) == 4
    for file, line in rows:
        assert (ROOT / file).parent.is_dir() and (ROOT / re.findall(r"`([^`]+\.py)`", line)[0]).is_file()


def test_a_method(extended: Path) -> None:
    assert "direct" in kloc(extended, "edit", "--help") and "direct" in kloc(extended, "bench", "edit", "--help")
    assert "has no one-at-a-time way" in kloc(extended, "bench", "edit", "--method", "direct", code=2)
    out = extended / "run"
    words = ("run", "smoke", "--model", "world", "--limit", "3", "--methods", "direct", "--only", "table2")
    kloc(extended, *words, "--out", out)
    page = (out / "report" / "report.md").read_text()
    assert re.search(r"entity edit.*Direct", page)


FAMILY = """
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM
from artifact.lm.load import from_module
config = CodeGenConfig(vocab_size=50, n_layer=3, n_head=4, n_embd=64, n_positions=32, n_ctx=64, rotary_dim=8,
                       bos_token_id=0, eos_token_id=0, initializer_range=0.3, attn_implementation="eager")
module = CodeGenForCausalLM(config).eval()
ids_BT = torch.randint(0, 50, (2, 9))
with torch.no_grad():
    expected_BTV, decoder = module(ids_BT).logits, from_module(module)
    logits_BTV = decoder.logits(decoder.blocks(decoder.embed(decoder.words(ids_BT))))
print(float((logits_BTV - expected_BTV).abs().max() / expected_BTV.abs().max()))
"""


def test_a_family(extended: Path) -> None:
    assert float(python(extended, FAMILY)) < 1e-4


def test_a_data_set(extended: Path) -> None:
    assert "everyday, birthplaces, or a file" in " ".join(kloc(extended, "smoke", "--help").replace("│", " ").split())
    out = extended / "facts"
    words = ("run", "smoke", "--model", "world", "--facts", "birthplaces", "--limit", "1", "--only", "figure2")
    kloc(extended, *words, "--out", out)
    info = json.loads((out / "run.json").read_text())
    assert info["data_source"] == "birthplaces of the embedded world" and len(info["cases"]) == 18


def test_a_kind_of_trace(extended: Path) -> None:
    out = extended / "trace.json"
    words = ("trace", "--model", "world", "--prompt", "The birthplace of Zikim Dinuv is", "--subject", "Zikim Dinuv")
    kloc(extended, *words, "--kind", "attn-layer", "--json", out)
    assert json.loads(out.read_text())["kind"] == "attn-layer"
