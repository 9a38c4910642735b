"""docs/extend.md holds: its files, and the one line it changes for each, make the package know them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifact

ROOT = Path(artifact.__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "extend.md").read_text()


SERVER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from artifact.cli import call
from artifact.reporting import drawing
drawing.draw_here = lambda one, forms, width: [b""] * len(forms)
for line in sys.stdin:
    asked, out, err, code = json.loads(line), io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        if isinstance(asked, list):
            code = call(asked)
        else:
            exec(asked, {})
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Extended:
    """A process that has the extended package: it loads torch once and draws no figure."""

    def __init__(self, folder: Path) -> None:
        here = os.environ | {"PYTHONPATH": str(folder)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, env=here, text=True, **pipes)
        self.folder = folder

    def ask(self, asked: object, expected: int = 0) -> str:
        """What Python code or a command's words print: what they answer, or the error that is expected."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        assert code == expected, err
        return err if expected else out

    def kloc(self, *words: object, code: int = 0) -> str:
        return self.ask([str(word) for word in words], code)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
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
    found = Extended(copy)
    with found.process:
        yield found
        found.process.kill()


def test_every_table_has_its_row() -> None:
    rows = re.findall(r"^\| an? [^|]+\| `([^`]+)`[^|]*\| ([^|]+)\|", DOCUMENT, re.MULTILINE)
    assert len(rows) == 4
    for file, line in rows:
        assert (ROOT / file).parent.is_dir() and (ROOT / re.findall(r"`([^`]+\.py)`", line)[0]).is_file()


def test_a_method(extended: Extended) -> None:
    assert "direct" in extended.kloc("edit", "--help") and "direct" in extended.kloc("bench", "edit", "--help")
    assert "has no one-at-a-time way" in extended.kloc("bench", "edit", "--method", "direct", code=2)
    out = extended.folder / "run"
    words = ("run", "smoke", "--model", "world", "--limit", "3", "--methods", "direct", "--only", "table2")
    extended.kloc(*words, "--out", out)
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


def test_a_family(extended: Extended) -> None:
    assert float(extended.ask(FAMILY)) < 1e-4


def test_a_data_set(extended: Extended) -> None:
    assert "everyday, birthplaces, or a file" in " ".join(extended.kloc("smoke", "--help").replace("│", " ").split())
    out = extended.folder / "facts"
    words = ("run", "smoke", "--model", "world", "--facts", "birthplaces", "--limit", "1", "--only", "figure2")
    extended.kloc(*words, "--out", out)
    info = json.loads((out / "run.json").read_text())
    assert info["data_source"] == "birthplaces of the embedded world" and len(info["cases"]) == 18


def test_a_kind_of_trace(extended: Extended) -> None:
    out = extended.folder / "trace.json"
    words = ("trace", "--model", "world", "--prompt", "The birthplace of Zikim Dinuv is", "--subject", "Zikim Dinuv")
    extended.kloc(*words, "--kind", "attn-layer", "--json", out)
    assert json.loads(out.read_text())["kind"] == "attn-layer"
