"""The LaTeX tables go through LaTeX: all of them in one document, no error, nothing missing, none wider than the page.

Their numbers and their escaping as text are test_report.py's.
"""

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from artifact.reporting.cells import CHANGE, Cell, Grid, Line
from artifact.reporting.expected import load_expected
from artifact.reporting.report import make_report
from artifact.reporting.templates import template
from artifact.runs.store import Store

DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[a4paper, textwidth=506pt, textheight=700pt]{geometry}
\usepackage{booktabs}
\begin{document}
TABLES
\end{document}
"""
ODD = [
    *string.punctuation,
    *(f"{mark} first" for mark in "[*]{"),
    *('"quoted" and ("again")', "--model, ---, ?` and !`", "<<a>> | b", "§ é ß ø “quotes” ‘single’ – — … ± −1 ≥ 2 ≤ 3"),
    *(
        "two\nlines",
        "a [b] c",
        "1 [2",
        "x; y [z]",
        "-0.5 [-1.0, +0.5]",
        "9.10 ± 2; 9.20 [9.00, 9.40] n=3: 100% & <more>",
    ),
    *("", " ", "n/a", "nan", "\\input{/etc/passwd}", "$x$ %comment #1 ^2 _3 ~"),
]
"""Every mark that LaTeX takes for its own, and texts that look like numbers, intervals or commands."""


def compiled(tables: dict[str, str], folder: Path) -> str:
    """LaTeX's log of one document with all these tables, a page each. Skips where no LaTeX is."""
    latex = shutil.which("pdflatex") or shutil.which("lualatex")
    if latex is None or not _has_booktabs():
        pytest.skip("no LaTeX with booktabs on this machine (pdflatex or lualatex); the tables are not compiled")
    for name, content in tables.items():
        (folder / name).write_text(content, encoding="utf-8")
    inputs = "\n".join(f"\\input{{{name}}}\\clearpage" for name in tables)
    (folder / "all.tex").write_text(DOCUMENT.replace("TABLES", inputs))
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    log = (folder / "all.log").read_text(encoding="latin-1")
    assert done.returncode == 0, re.findall(r"^!.*(?:\n.*){4}", log, re.MULTILINE)
    assert (folder / "all.pdf").read_bytes().startswith(b"%PDF")
    return log


def _has_booktabs() -> bool:
    look = shutil.which("kpsewhich")
    return look is not None and not subprocess.run([look, "booktabs.sty"], capture_output=True, timeout=60).returncode


def complaints(log: str) -> list[str]:
    """Tables wider than the page, and characters that no font has."""
    lines = log.splitlines()
    wide = [
        line for line in lines if (found := re.match(r"Overfull \\hbox \(([\d.]+)pt", line)) and float(found[1]) > 1
    ]
    return wide + [line for line in lines if "Missing character" in line]


def test_every_table_compiles_and_fits(shared_smoke: Store, two_models: list[Store], tmp_path: Path) -> None:
    """A smoke run's tables, with failed and excluded cases, and those of a report of two models, measured and not."""
    files = make_report(two_models, load_expected(), tmp_path).files
    smoke = make_report([shared_smoke], load_expected(), tmp_path / "smoke").files
    files |= {name: content for name, content in smoke.items() if name not in files}
    tables = {Path(name).name: content.decode() for name, content in files.items() if name.endswith(".tex")}
    assert {"success.tex", "gpt2-xl-success.tex", "gpt-j-traces.tex", "paper-table-1.tex"} <= tables.keys()
    labels = re.findall(r"\\label\{.*\}", "".join(tables.values()))
    assert len(labels) == len(set(labels)) == len(tables)
    assert complaints(compiled(tables, tmp_path)) == []


def test_every_text_compiles(tmp_path: Path) -> None:
    grid = Grid(
        name="odd",
        title=" ".join(ODD),
        caption="\n".join(ODD),
        heads=("edited", "method", *ODD[-3:-1]),
        columns=(ODD[-1], "state"),
        lines=tuple(
            Line((text,) * 4, (text, Cell(0.5, -1, 0.5, 3, text, published=(9.1, 2))), (), (3, 1, 0), text)
            for text in ODD
        ),
    )
    log = compiled({"odd.tex": as_latex(grid)}, tmp_path)
    assert not [line for line in complaints(log) if "Overfull" not in line]


def as_latex(grid: Grid) -> str:
    return template("table.tex.j2").render(grid=grid, prefix="", of="", change_words=CHANGE)
