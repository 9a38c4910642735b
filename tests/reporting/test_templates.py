"""Compiled templates are kept, and nothing that stands in the cache folder in their place can stop a report."""

from pathlib import Path

import jinja2
import pytest

from artifact.reporting import templates
from artifact.reporting.templates import template


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled templates after one was asked for; the next one to ask is as a new process."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path))
    templates._environment.cache_clear()
    template("table.md.j2")
    templates._environment.cache_clear()
    return tmp_path / "templates"


def compiled(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many templates are compiled, not read, when one is asked for."""
    count = 0

    def compile_one(self: jinja2.Environment, *given: object, **options: object) -> object:
        nonlocal count
        count += 1
        return real(self, *given, **options)

    real = jinja2.Environment.compile
    monkeypatch.setattr(jinja2.Environment, "compile", compile_one)
    template("table.md.j2")
    templates._environment.cache_clear()
    return count


def test_a_template_is_compiled_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(monkeypatch) == 0 and len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "byte", "folder", "version", "code", "unwritable"])
def test_another_file_is_not_taken(kept: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    (file,) = kept.iterdir()
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "unwritable":
        file.unlink()
        kept.rmdir()
        kept.write_text("")
    elif damage == "version":
        monkeypatch.setattr(jinja2, "__version__", "0")
        templates._made_by.cache_clear()
    elif damage == "code":
        monkeypatch.setattr(templates, "_made_by", lambda: b"other filters")
    else:
        file.write_bytes({"empty": b"", "cut": content[:-9], "byte": content[:-1] + bytes([content[-1] ^ 1])}[damage])
    assert compiled(monkeypatch) == 1
    monkeypatch.undo()
    templates._made_by.cache_clear()
