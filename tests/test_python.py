"""What README and docs/python.md show in Python runs as it stands, and the package's exported names are loaded late."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import artifact

ROOT = Path(artifact.__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "python.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_document_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(DOCUMENT):
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "entity prompts, unedited: success 0" in said and "entity prompts, entity edit: success 1" in said
    assert "relation prompts, relation edit: success 1" in said
    assert "The birthplace of Zikim Dinuv is Suzisford" in said
    assert (tmp_path / "trace.png").stat().st_size > 1000 and (tmp_path / "entity.safetensors").is_file()
    AutoModelForCausalLM.from_pretrained(tmp_path / "edited")


def test_the_exported_names_are_those_of_the_document_and_say_what_they_do() -> None:
    used = set(re.findall(r"\w+", " ".join(re.findall(r"from artifact import (.*)", DOCUMENT))))
    assert used <= set(artifact.__all__) and set(artifact.__all__) - used == {"Fact", "Statement"}
    for name in artifact.__all__:
        found = getattr(artifact, name)
        assert not callable(found) or len(inspect.getdoc(found) or "") > 60
    assert set(artifact.__all__) < set(dir(artifact))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = artifact.absent


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, artifact; assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys(); artifact.load"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_readme_adds_an_edit_to_a_loaded_model(tmp_path, monkeypatch) -> None:
    (block,) = (one for one in blocks((ROOT / "README.md").read_text()) if "get_parameter" in one)
    tiny, parameter = ROOT / "tests/reference/models/tiny-gpt2", "transformer.h.1.mlp.c_proj.weight"
    shutil.copytree(tiny, tmp_path / "MODEL")
    save_file({parameter: torch.full((256, 64), 0.25)}, tmp_path / "edit.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.nn.Module] = {}
    exec(compile(block, "README.md", "exec"), names)
    before = AutoModelForCausalLM.from_pretrained(tiny).get_parameter(parameter)
    torch.testing.assert_close(names["model"].get_parameter(parameter), before + 0.25)
