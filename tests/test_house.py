"""The house keeps its floors: nothing imports upwards, and what must start without torch does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import artifact
from artifact.editing.methods import METHODS

PACKAGE = Path(artifact.__file__).parent
FLOORS = (
    "errors",
    "sizes",
    "io",
    "terminal",
    "reading",
    "progress",
    "sources",
    "facts",
    "lm",
    "world",
    "tracing",
    "editing",
    "evaluation",
    "plans",
    "runs",
    "reporting",
    "bench",
    "cli",
)


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


@cache
def every_node() -> list[tuple[Path, Any]]:
    return [(file, node) for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]


def nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, Any]]:
    """Every node of a kind in the package, with its file."""
    return ((file, node) for file, node in every_node() if isinstance(node, kind))


def test_nothing_imports_upwards() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    assert {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in files} == set(FLOORS)
    for file, node in nodes(ast.ImportFrom):
        if file in files and node.module and node.module.startswith("artifact."):
            here = FLOORS.index(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
            assert floor(node.module) <= here, f"{file}:{node.lineno} imports {node.module} from a floor above"


def test_files_stay_short() -> None:
    for file in (*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")):
        lines = len(file.read_text().splitlines())
        assert lines <= 400, f"{file} has {lines} lines; move what is a topic of its own"


def test_functions_stay_short() -> None:
    """All lines count: the signature with an option's help, the docstring, and functions within."""
    for file, node in nodes(ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        assert lines <= 50, f"{file}:{node.lineno} {node.name} has {lines} lines; move what has a name of its own"


def test_lines_are_printed_in_one_way() -> None:
    """terminal.py escapes what others wrote and outlives a standard output that is gone."""
    for file, node in nodes(ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            assert file.name == "commands.py", f"{file}:{node.lineno} prints; use say or complain of terminal.py"


def test_help_and_reports_start_without_torch() -> None:
    code = "import sys; from artifact.cli import call; call(['--help']); import artifact.reporting.report, sys\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_a_command_loads_no_other() -> None:
    code = "import sys; from artifact.cli import call; call(['trace', '--help'])\n"
    code += "assert 'artifact.cli.trace' in sys.modules and 'artifact.cli.doctor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_all_that_decoding_json_raises_is_caught() -> None:
    """io.NOT_JSON says what; two files tell a person the kinds apart."""
    for file in PACKAGE.rglob("*.py"):
        if "msgspec.DecodeError" in file.read_text():
            assert file.name in ("io.py", "reading.py", "kinds.py"), f"{file}: catch NOT_JSON of artifact/io.py"


def test_no_name_of_a_method_is_compared() -> None:
    """What a method is asked of its object in editing/methods; plans and tables name none."""
    for file, node in nodes(ast.Compare):
        named = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)} & METHODS.keys()
        assert not named, f"{file}:{node.lineno} compares with {named}"


def test_connections_to_sqlite_are_closed() -> None:
    """`with` alone commits and leaves the connection open, of which Python warns from 3.13 on."""
    alone = "with sqlite3." + "connect("
    for file in (*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")):
        assert alone not in file.read_text(), f"{file}: write `with closing(sqlite3.connect(...)) as one, one:`"
