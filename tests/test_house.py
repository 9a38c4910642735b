"""The house keeps its floors: nothing imports upwards, and what must start without torch does."""

import ast
import subprocess
import sys
from pathlib import Path

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


def test_nothing_imports_upwards() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    assert {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in files} == set(FLOORS)
    for file in files:
        here = FLOORS.index(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("artifact."):
                assert floor(node.module) <= here, f"{file}:{node.lineno} imports {node.module} from a floor above"


def test_files_stay_short() -> None:
    for file in (*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")):
        lines = len(file.read_text().splitlines())
        assert lines <= 400, f"{file} has {lines} lines; move what is a topic of its own"


def test_functions_stay_short() -> None:
    """All lines count: the signature with an option's help, the docstring, and functions within."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 50, (
                    f"{file}:{node.lineno} {node.name} has {lines} lines; move what has a name of its own"
                )


def test_lines_are_printed_in_one_way() -> None:
    """terminal.py escapes what others wrote and outlives a standard output that is gone."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                assert file.name == "commands.py", f"{file}:{node.lineno} prints; use say or complain of terminal.py"


def test_help_and_reports_start_without_torch() -> None:
    code = "import sys; from artifact.cli import call; call(['--help']); import artifact.reporting.report, sys\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_no_name_of_a_method_is_compared() -> None:
    """What a method is asked of its object in editing/methods; plans and tables name none."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                named = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)} & METHODS.keys()
                assert not named, f"{file}:{node.lineno} compares with {named}"
