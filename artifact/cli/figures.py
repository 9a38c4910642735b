"""kloc figures: a run's figures for a paper, in the form and width that it asks for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from artifact.cli.app import check_outputs, words, writing
from artifact.cli.bounds import inches
from artifact.cli.runs import RunFolder, say_damage
from artifact.io import write_atomically
from artifact.terminal import say

if TYPE_CHECKING:
    from artifact.reporting.gallery import Shown

_ALL: list[str] = []


def figures(
    run_folder: RunFolder,
    *,
    form: Annotated[
        Literal["pdf", "svg", "png"], Parameter(name="--format", help="Form of the files; a PNG has 300 dots an inch.")
    ] = "pdf",
    width: Annotated[
        str,
        Parameter(
            help="Width on paper, such as 3.3in, 84mm, 8.4cm or 241pt. Fonts keep their size. From 5.5in on, panels "
            "stand side by side."
        ),
    ] = "3.3in",
    only: Annotated[
        list[str],
        Parameter(help="Only these figures, by name, such as aie-mlp,edits-entity (default: all)."),
    ] = _ALL,
    out: Annotated[Path | None, Parameter(help="Folder to write to (default: figures in the run's folder).")] = None,
) -> int:
    """Draw a run's figures for a paper, and print each file's path. No model is loaded."""
    from artifact.reporting.drawing import draw_all
    from artifact.reporting.gallery import chosen

    broad = inches(width)
    folder = out or run_folder / "figures"
    every, damage = _every(run_folder)
    wanted = chosen(every, words(only))
    paths = [folder / f"{name}.{form}" for name, _ in wanted]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_outputs({f"figure {path.name}": path for path in paths})
    drawn = draw_all([one for _, one in wanted], (form,), broad)
    for path, (content,) in zip(paths, drawn, strict=True):
        with writing(path):
            write_atomically(path, content)
        say(path)
    return damage


def _every(run_folder: Path) -> "tuple[list[tuple[str, Shown]], int]":
    """All figures of a run, or of all runs of a folder, by name, and the exit code of damaged records."""
    from artifact.reporting.expected import load_expected
    from artifact.reporting.gallery import gallery
    from artifact.reporting.report import prefixes
    from artifact.reporting.verdict import measured_run, reach_verdict
    from artifact.runs.store import reading_all

    with reading_all(run_folder) as stores:
        runs = [measured_run(store) for store in stores]
        paper = reach_verdict(load_expected(), runs).paper
        names = prefixes([run.info.model for run in runs], stores[0].folder != run_folder)
        every = [
            (f"{prefix}{one.name}", one)
            for run, prefix in zip(runs, names, strict=True)
            for one in gallery(run, paper).every
        ]
        return every, say_damage(stores)
