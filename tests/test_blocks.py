"""Every code block of README, ARTIFACT.md and docs/ is run: here, by the test that is named, or not, with the reason.

A block that is new, or that has changed its first words, fails until somebody says where it is run.
"""

import contextlib
import json
import re
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from artifact.cli import call
from artifact.sources.catalogue import NEW_FACTS

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "reference" / "models" / "tiny-gpt2"
DOCUMENTS = [ROOT / "README.md", ROOT / "ARTIFACT.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

NOX = "it makes environments and installs packages, which needs a network; continuous integration runs it"
CONTAINER = "it needs a container engine; continuous integration builds and runs the image"
GRAMMAR = "it lists commands and options with placeholders; tests/test_documents.py looks up each of them in the help"
HOURS = "it takes hours, on a real model that another package brings; nox -s smoke-real runs a part of it"
SAID = {
    ("README.md", "pip install nox"): NOX,
    ("README.md", "docker build -t kloc-artifact .\n"): CONTAINER,
    ("README.md", "measured before: 239 of 239"): "tests/test_smoke.py",
    ("README.md", "install -d -o 10001 gpu-results"): CONTAINER,
    ("README.md", "kloc doctor "): GRAMMAR,
    ("README.md", "docker build -t kloc-artifact --build-arg"): CONTAINER,
    ("README.md", "python3 -c"): "tests/test_documents.py::test_the_readme_s_example_on_one_fact_runs",
    ("README.md", "from safetensors.torch"): "tests/test_python.py::test_the_readme_adds_an_edit_to_a_loaded_model",
    ("ARTIFACT.md", "pip install nox"): NOX,
    ("docs/archive.md", "sha256sum --check SHA256SUMS"): NOX,
    ("docs/archive.md", "kloc contribute results/full"): "tests/runs/test_pack.py",
    ("docs/cluster.md", "python3 -m venv /shared"): "it installs packages, which needs a network",
    ("docs/cluster.md", "#!/bin/bash\n# shards.sh"): "tests/test_cluster_docs.py",
    ("docs/cluster.md", "#!/bin/bash\n# merge.sh"): "tests/test_cluster_docs.py",
    ("docs/cluster.md", "array=$(sbatch --parsable shards.sh)"): "tests/test_cluster_docs.py",
    ("docs/cluster.md", "array=$(sbatch --parsable --array=2"): "tests/test_cluster_docs.py",
    (
        "docs/cluster.md",
        "$ kloc doctor --estimate gpt2-xl",
    ): "tests/test_cluster_docs.py::test_what_the_estimate_prints",
    (
        "docs/cluster.md",
        "ray start --head",
    ): "it needs several machines; tests/runs/test_cluster.py runs workers under Ray",
    ("docs/commands.md", "kloc smoke "): GRAMMAR,
    ("docs/commands.md", "kloc trace "): GRAMMAR,
    ("docs/commands.md", "kloc facts new "): GRAMMAR,
    ("docs/commands.md", "kloc fetch "): GRAMMAR,
    ("docs/extend.md", '"""A direct write'): "tests/test_extend.py::test_a_method",
    ("docs/extend.md", '-_FILES = ("ft"'): "tests/test_extend.py::test_a_method",
    ("docs/extend.md", "kloc run smoke --model world --limit 3"): "tests/test_extend.py::test_a_method",
    ("docs/extend.md", '"""CodeGen'): "tests/test_extend.py::test_a_family",
    ("docs/extend.md", '-_FILES = ("gpt2"'): "tests/test_extend.py::test_a_family",
    ("docs/extend.md", "-        _HIDDEN,"): "tests/test_extend.py::test_a_kind_of_trace",
    ("docs/extend.md", '"""The embedded world'): "tests/test_extend.py::test_a_data_set",
    ("docs/extend.md", '-_FILES = ("counterfact"'): "tests/test_extend.py::test_a_data_set",
    (
        "docs/facts.md",
        "import csv",
    ): "tests/test_cli_facts.py::test_the_document_s_way_from_a_spreadsheet_ends_in_records",
    ("docs/models.md", "kloc tune --model smollm2"): HOURS,
    ("docs/models.md", "pip install -c constraints.txt"): "it installs packages, which needs a network",
    ("docs/python.md", ""): "tests/test_python.py::test_the_document_runs_from_top_to_bottom",
    ("docs/running.md", "docker run"): CONTAINER,
    ("docs/running.md", "kloc run real --model smollm2"): HOURS,
    ("docs/running.md", "python3 -c"): "it works on the run that the block before it makes, in hours",
    ("docs/scaling.md", "kloc doctor --estimate smoke --model meta-llama"): "it reads a configuration from the hub",
    ("docs/tour.md", "$ "): "tests/test_tour.py::test_the_tour_prints_what_it_says",
    ("docs/scaling.md", "$ kloc doctor"): "tests/test_estimate.py::test_the_document_says_what_its_commands_print",
}
"""By document and first words: the test that runs the block, or why no test does."""
HERE: dict[tuple[str, str], Callable[[str], None]] = {}
"""By document and first words: what runs the block in this file."""


def here(document: str, opens: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Say that a function runs the block of that document that opens with these words."""

    def keep(run: Callable[[str], None]) -> Callable[[str], None]:
        HERE[document, opens] = run
        return run

    return keep


def kloc(line: str, *more: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0].endswith("kloc") and call([*words[1:], *more]) == 0, line


@here("docs/facts.md", "kloc facts new --out own.json")
def own_facts(block: str) -> None:
    """On a tiny model in the place of GPT-2, the run with one method and one table (tests/test_smoke.py runs all)."""
    *lines, run = block.replace("--model gpt2", f"--model {shlex.quote(str(TINY))}").splitlines()
    for line in lines:
        kloc(line)
    kloc(run, "--methods", "ft", "--only", "table2")
    assert Path("results/smoke-tiny-gpt2-table2-ft/report/report.html").is_file()


@here("docs/records.md", "import json\nimport sqlite3")
def journal_read(block: str) -> None:
    """From the repository's root, where the run is."""
    with contextlib.chdir(ROOT):
        names: dict[str, object] = {}
        exec(compile(block, "docs/records.md", "exec"), names)
        cast(sqlite3.Connection, names["journal"]).close()


@here("docs/facts.md", "[\n {\n")
def two_records(block: str) -> None:
    assert json.loads(block) == json.loads(NEW_FACTS.read_text("utf-8"))


@here("docs/facts.md", "kloc facts convert counterfact-edit.json")
def converted(block: str) -> None:
    record = {
        "case_id": 4,
        "prompt": "The twin city of Lyon is",
        "target_new": "Manila",
        "subject": "Lyon",
        "ground_truth": "Beirut",
        "rephrase_prompt": "Lyon's twin city is",
        "locality_prompt": "The twin city of Turin is",
        "locality_ground_truth": "Beirut",
    }
    Path("counterfact-edit.json").write_text(json.dumps([record]))
    for line in block.splitlines():
        kloc(line)


def named(entry: tuple[str, str], document: str, block: str) -> bool:
    return entry[0] == document and block.startswith(entry[1])


def test_every_block_is_run_or_says_why_not() -> None:
    met, unsaid = set(), []
    for path in DOCUMENTS:
        document = str(path.relative_to(ROOT))
        for _, block in BLOCK.findall(path.read_text()):
            found = [entry for entry in (*SAID, *HERE) if named(entry, document, block)]
            met |= set(found)
            if len(found) != 1:
                unsaid.append((document, block.splitlines()[0], found))
    assert unsaid == []
    assert SAID.keys() | HERE.keys() == met  # none stands here for a block that is gone


@pytest.mark.parametrize("where", sorted({said for said in SAID.values() if said.startswith("tests/")}))
def test_the_test_that_is_named_exists(where: str) -> None:
    file, _, name = where.partition("::")
    assert re.search(rf"^def {name or 'test_'}", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("entry", sorted(HERE))
def test_a_block_runs(entry: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [one for _, one in BLOCK.findall((ROOT / entry[0]).read_text()) if one.startswith(entry[1])]
    HERE[entry](block)
