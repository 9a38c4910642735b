"""docs/tour.md prints what the commands print: each is run, in the page's order, and its lines are compared."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from artifact.cli import call

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
ABSOLUTE, RELATIVE = 0.06, 0.1
"""By how much a printed number may differ: other processors change a sum's last bits, and twenty steps enlarge that."""


def steps() -> list[tuple[str, list[str]]]:
    """The page's commands, each with the lines that it says are printed."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "tour.md").read_text(), re.DOTALL | re.MULTILINE)
    found: list[tuple[str, list[str]]] = []
    for line in (line for block in blocks for line in block.splitlines()):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def alike(told: str, printed: str) -> bool:
    """Whether two lines have the same words, and numbers that are nearly the same."""
    if NUMBER.sub("#", told) != NUMBER.sub("#", printed):
        return False
    pairs = zip(map(float, NUMBER.findall(told)), map(float, NUMBER.findall(printed)), strict=True)
    return all(abs(one - other) <= max(ABSOLUTE, RELATIVE * abs(one)) for one, other in pairs)


def difference(told: list[str], printed: list[str]) -> str:
    """The first told line that is not printed in its place; `...` stands for any lines."""
    at, skipping = 0, False
    for line in told:
        if line == "...":
            skipping = True
            continue
        while skipping and at < len(printed) and not alike(line, printed[at]):
            at += 1
        if at >= len(printed) or not alike(line, printed[at]):
            return f"{line!r} is told, {printed[at] if at < len(printed) else 'nothing'!r} is printed"
        at, skipping = at + 1, False
    return "" if skipping or at == len(printed) else f"{printed[at]!r} is printed and not told"


def test_lines_are_compared_by_words_and_nearly_by_numbers() -> None:
    assert difference(["a 1.00", "...", "c"], ["a 1.01", "b", "b", "c"]) == ""
    assert "'a 1.00' is told" in difference(["a 1.00"], ["a 1.20"])
    assert "'c' is told" in difference(["a 1.00", "c"], ["a 1.00", "b", "c"])
    assert "is printed and not told" in difference(["a"], ["a", "b"])
    assert "'c' is told, 'nothing'" in difference(["...", "c"], ["a"])


def test_the_tour_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifact").symlink_to(ROOT / "artifact")
    monkeypatch.chdir(tmp_path)
    taken = steps()
    assert [command.split()[1] for command, _ in taken if command.startswith("kloc")] >= ["generate", "trace"]
    for command, told in taken:
        if command.startswith("kloc "):
            assert call(shlex.split(command)[1:]) == 0, command
            assert not (wrong := difference(told, capsys.readouterr().out.splitlines())), f"{command}: {wrong}"
        else:
            subprocess.run(command, shell=True, check=True)
    assert len(taken) == 11
    assert (tmp_path / "run" / "report" / "report.html").is_file()
