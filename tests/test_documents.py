"""The documents can be followed: links lead somewhere, commands and options exist, README's example runs."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import fields

from artifact.cli import call
from artifact.cli.commands import app  # with every command on it
from artifact.runs.describe import RunInfo
from artifact.runs.store import reading

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "expected" / "README.md", *(ROOT / "docs").glob("*.md")]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
COMMANDS = {name for name in app if not name.startswith("-")}
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The headings of a document as its host makes links of them."""
    heads = re.findall(r"^#+ (.*)", BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert {"nox -s smoke", "docker run --gpus all kloc-artifact full"} <= set(lines[:40])


def commands(text: str) -> Iterator[tuple[list[str], set[str]]]:
    """Each command in code, blocks with their continuation lines, as its words, with its options."""
    inline = re.findall(r"`kloc ([a-z][^`]+)`", BLOCK.sub("", text))
    lines = [found for block in BLOCK.findall(text) for found in re.findall(r"kloc ([a-z].*(?:\n +.*)*)", block)]
    for found in (*inline, *lines):
        first, second = [*re.split(r"[\s|]+", found), ""][:2]
        yield (
            [first, second] if first in ("bench", "facts", "world") else [first],
            set(re.findall(r"--[a-z][a-z-]*", found)),
        )


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in commands((ROOT / name).read_text()):
        assert command[0] in COMMANDS
        call([*command, "--help"])
        known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
        assert options <= known, f"{command}: {options - known}"


def test_every_command_is_documented() -> None:
    assert {command[0] for command, _ in commands((ROOT / "docs" / "commands.md").read_text())} >= COMMANDS


def test_the_readme_s_example_on_one_fact_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (block,) = [block for block in BLOCK.findall((ROOT / "README.md").read_text()) if "> fact.json" in block]
    (tmp_path / "artifact").symlink_to(ROOT / "artifact")
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        if line.startswith("kloc "):
            assert call(shlex.split(line)[1:]) == 0, line
        else:
            subprocess.run(line, shell=True, check=True)
    assert "entity reliability: success 1.0000" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"fact.json", "trace.png", "edit.safetensors"}


def test_every_key_of_a_run_s_folder_is_explained() -> None:
    """Of run.json, and of every case that was scored or traced in a run of the paper's methods or of the newer ones."""
    written = set(re.findall(r"`([\w.*]+)`", (ROOT / "docs" / "records.md").read_text()))
    kept = {one.name for one in fields(RunInfo)}
    for run, does in (("example-world", ("unedited", "edit", "trace")), ("smollm2-modern", ("unedited", "edit"))):
        with reading(ROOT / "results" / run) as store:
            for unit in store.info().plan.units:
                done = [one for one in store.records(unit) if one.status == "done"] if unit.does in does else []
                kept |= {key for one in done for key in one.payload}
    assert not kept - written
