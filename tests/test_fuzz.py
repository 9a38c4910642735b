"""The fuzz harness in short: one seed and a fixed number of cases of each kind; `nox -s fuzz` goes on with others."""

import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclopts import App
from fuzz import words
from fuzz.box import Box, Case
from fuzz.drive import Driver
from fuzz.judge import judge
from fuzz.kinds import KINDS
from fuzz.material import models

from artifact.cli.commands import app

SEED = 13
CASES = {"code": 30, "runs": 30, "arguments": 30, "process": 3, "grids": 10, "batches": 10, "interrupted": 15}
"""Of the other kinds 20: about 400 cases in all, less than a minute on one core."""
SHARED = {"--shape", "--device", "--memory", "--protocol"}
"""What all benchmarks take alike: `bench trace` stands for them."""
ELSEWHERE = {"doctor --json", "run --out", "bench report --out", "world train --out"}
"""Outputs of commands that take seconds."""


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver(draws=False) as one:
        models(one.folder / "material")  # here, where other tests have imported transformers' models already
        one.started()
        yield one


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_end_in_one_line_or_in_the_same_numbers(kind, driver) -> None:
    found = [finding for number in range(CASES.get(kind, 20)) if (finding := driver.case(kind, SEED, number))]
    assert not found, "\n" + "\n\n".join(map(str, found))


def test_every_option_that_takes_a_value_is_given_odd_ones() -> None:
    """`smoke` and `full` take those of `run`."""
    given = defaultdict(set)
    for line, options, _ in (*words.OPTIONS, *words.OUTPUTS):
        begins = line.replace("replaced", "trace").split()
        given[" ".join(begins[: 2 if begins[0] in ("bench", "facts", "world") else 1])].update(options.split())
    missing = []
    for command, option in _options(app):
        shared = command.startswith("bench ") and option in SHARED and command != "bench trace"
        if not (option in given[command] or shared or command in ("smoke", "full")):
            missing.append(f"{command} {option}")
    assert set(missing) == ELSEWHERE


def _options(commands: App, within: str = "") -> Iterator[tuple[str, str]]:
    """Every command with each of its options that takes a value and cannot stand without its name."""
    for name in commands:
        if name.startswith("-"):
            continue
        command, words_of = commands[name], f"{within}{name}"
        if command.default_command is not None:
            for argument in command.assemble_argument_collection(parse_docstring=False):
                if argument.index is None and argument.hint is not bool and argument.names not in ((), ("*",)):
                    yield words_of, argument.names[0]
        yield from _options(command, f"{words_of} ")


def _raises(box: Box) -> int:
    raise ValueError("unforeseen")


def _says(text: str, code: int, stream: str = "stderr") -> Callable[[Box], int]:
    return lambda box: print(text, end="", file=getattr(sys, stream)) or code


def _writes(content: str, path: str = "out/t.json", code: int = 0) -> Callable[[Box], int]:
    return lambda box: (box.root / "box" / path).write_text(content) and code


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (_raises, "traceback: ValueError: unforeseen"),
        (_says("kloc: one line\n", 4), "exit code 4"),
        (_says("", 2), "exit code 2 with 0 lines"),
        (_says("kloc: one\nkloc: two\n", 2), "exit code 2 with 2 lines"),
        (_says("kloc: one\nUserWarning: odd\n", 2), "on standard error"),
        (lambda box: os.write(2, b"thread panicked at\n") and 0, "on standard error"),
        (_says("kloc: \x1b[31mred\n", 2), "control character"),
        (_says("\u202egnp\n", 0, "stdout"), "control character"),
        (_says("loss nan\n", 0, "stdout"), "no number is printed"),
        (_writes('{"clean": NaN}'), "holds NaN"),
        (_writes('{"clean": 0.5'), "is no JSON"),
        (_writes('{"clean": 0.51}'), "other numbers and exit 0: /t.json/clean: 0.5, now 0.51"),
        (_writes("", "out/e.safetensors"), "is no safetensors file"),
        (_writes("x", "home/left"), "written outside: home/left"),
        (_writes("x", "elsewhere/precious"), "written outside: elsewhere/precious"),
        (lambda box: box.canary.touch() or 0, "code of an input was run"),
        (_writes('{"clean": 0.5}'), None),
        (_says("kloc: one line\n", 2), None),
    ],
)
def test_the_judge_sees_what_is_wrong(does, says, tmp_path, monkeypatch) -> None:
    """A command that writes a number, and then, given damaged input, does something else."""
    box, calls = Box(tmp_path), [_writes('{"clean": 0.5}'), does]
    monkeypatch.setattr("artifact.cli.call", lambda arguments: calls.pop(0)(box))
    found, _ = judge(box, Case("none", "none", ["none", str(tmp_path)]), random.Random(0))
    assert any(one.startswith(says) or says in one for one in found) if says else not found
    assert Path.cwd() != box.cwd


@pytest.mark.parametrize(
    ("kind", "words", "wrong"),
    [("moments", "source = 'nan'", False), ("moments", "source = nan", True), ("arguments", "--lr 'nan'", True)],
)
def test_the_judge_tells_a_text_of_an_input_from_a_number(kind, words, wrong, tmp_path, monkeypatch) -> None:
    says = _says("corpus: nan, 3 texts\n", 0, "stdout")
    monkeypatch.setattr("artifact.cli.call", lambda arguments: says(Box(tmp_path)))
    found, _ = judge(Box(tmp_path), Case(kind, words, [kind, str(tmp_path)]), random.Random(0))
    assert [one[:21] for one in found] == ["no number is printed:"] * wrong
