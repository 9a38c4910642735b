"""Every command that a text of the package names exists and can be typed as it stands there.

Read from the source: messages, printed lines and help, f-strings with their placeholders filled. What follows a command
in its sentence is told from its arguments by the command line's own tables.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest

from artifact.cli import call
from artifact.cli.commands import app  # with every command on it
from artifact.plans import PLANS
from artifact.sources.catalogue import GROUPS, PLAIN_SOURCES, SOURCES
from artifact.sources.fetch import moments_folder, path_of

PACKAGE = Path(__file__).parents[1] / "artifact"
FILLED = {
    "source.name": "mend-gpt2-xl",
    "model.name": "gpt-j",
    "archive.parent.name": "relation",
    "self._plan.name": "gpt2-xl",
    "facts": "24",
    "convert": "easyedit",
    "' '.join((*missing, *rows))": "counterfact known",
}
"""What placeholders of commands stand for; another one is taken for a path."""
WORDS = {*SOURCES, *GROUPS, *PLANS, "world", "NAME", "NEW", "FILE", "DIR", "convert", "new"}
COMMANDS = sorted(name for name in app if not name.startswith("-"))


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text of a module with its line, but for docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | inside):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(_text(part) for part in node.values)


def _text(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return FILLED.get(ast.unparse(part.value), "some/path")


def named(text: str) -> Iterator[list[str]]:
    """The commands in a text, each as far as its words are a command line's."""
    for found in re.finditer(r"(?<![\w/])kloc ((?:[^\s`\"'();,:]+[ \n]*)+)", text):
        words = [word.rstrip(".") for word in found[1].split()]
        if words[0] not in COMMANDS:
            continue
        taken, option = words[:1], False
        for word in words[1:]:
            if not (word.startswith("--") or option or word in WORDS or "/" in word or word == "some/path"):
                break
            taken.append(word)
            option = word in (
                "--limit",
                "--estimate",
                "--rehearse",
                "--out",
                "--facts",
                "--correct",
                "--protocol",
                "--from",
            )
        yield taken


FOUND = [
    (f"{path.relative_to(PACKAGE)}:{line}", command)
    for path in sorted(PACKAGE.rglob("*.py"))
    if "kloc " in (source := path.read_text(encoding="utf-8"))  # the others need not be parsed at every start
    for line, text in texts(ast.parse(source))
    for command in named(text)
]


@pytest.mark.parametrize(("place", "command"), FOUND, ids=[f"{place} {' '.join(c)}" for place, c in FOUND])
def test_a_named_command_can_be_typed(place: str, command: list[str]) -> None:
    try:
        function, bound, _ = app.parse_args(command, print_error=False, exit_on_error=False)
    except cyclopts.MissingArgumentError:
        return  # a command named without its arguments, to be looked up
    assert function is not None
    if command[0] == "fetch":
        names = [name for name in bound.arguments.get("what", ()) if name != "NAME"]
        assert all(name in SOURCES or name in GROUPS for name in names)


def test_messages_that_say_run_kloc_fetch_say_what() -> None:
    """`kloc fetch` alone lists and ends no state; and the test finds what it is for."""
    bare = re.compile(r"run `?kloc fetch`?(?! `?[{a-z])")
    for path in PACKAGE.rglob("*.py"):
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            assert not bare.search(text), (path, line)
    assert len([command for _, command in FOUND if command[0] == "fetch" and len(command) > 1]) > 8


@pytest.mark.parametrize("source", PLAIN_SOURCES.values(), ids=lambda source: source.name)
def test_what_is_missing_names_its_own_source(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the message is the one that fetches the file (fetching: test_cli_fetch.py, test_archives.py)."""
    monkeypatch.setenv("KLOC_CACHE", str(tmp_path))
    keys = [member.key for member in source.members] or [source.name]
    for key in keys:
        with pytest.raises(Exception, match="is not in the cache") as caught:
            moments_folder(key.removeprefix("moments-")) if key.startswith("moments-") else path_of(key)
        assert str(caught.value).endswith(f"run kloc fetch {source.name}")


def test_an_unknown_command_would_be_found() -> None:
    assert list(named("run `kloc fetch known`, or kloc run sample --limit 3 takes long; kloc nothing")) == [
        ["fetch", "known"],
        ["run", "sample", "--limit", "3"],
    ]
    with pytest.raises(cyclopts.CycloptsError):
        app.parse_args(["fetch", "--agian"], print_error=False, exit_on_error=False)
    assert call(["fetch", "nothing"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_all_commands_says_of_each_what_its_own_help_begins_with(name):
    listed, own = app._commands[name].help, app[name]
    said = own.help if own.default_command is None else own.default_command.__doc__
    assert listed == " ".join(said.split("\n\n")[0].split())


def test_the_help_of_all_commands_loads_none_of_them():
    code = "import sys; from artifact.cli import call; call(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].split())
    places = {app._commands[name].import_path.split(":")[0] for name in COMMANDS}
    assert "artifact.cli.commands" in loaded
    assert not loaded & {*places, "artifact.plans", "artifact.runs", "torch", "transformers", "matplotlib"}
