"""A cell is written once for each form, from its numbers: no template takes a text apart."""

import re
from pathlib import Path

import pytest

from artifact.reporting.cells import CHANGE, POINTS, SCALES, Cell, Grid, Line, Scale, grid_csv, look_of
from artifact.reporting.intervals import Estimate
from artifact.reporting.resources import paper_folder
from artifact.reporting.templates import template

TAKEN_APART = (
    r"\.(r?partition|r?split|splitlines|startswith|endswith|[lr]?strip|removeprefix|replace|find|index)\(| in text\b"
)


@pytest.mark.parametrize(
    ("scale", "value", "text"),
    [
        (SCALES["success"], 0.99949, "99.9"),
        (SCALES["magnitude"].of_change, 0.1754, "+0.175"),
        (SCALES["magnitude"].of_change, -0.0004, "0.000"),
        (POINTS.of_change, 0.0, "0.00"),
        (Scale(0), 7500, "7500"),
    ],
)
def test_numbers_are_written_by_their_scale(scale: Scale, value: float, text: str) -> None:
    assert scale(value) == text


def test_the_parts_of_a_cell() -> None:
    cell = Cell.of(Estimate(60.0, 53.084, 66.5, 200), POINTS, "outside tolerance")
    assert (str(cell), cell.numbers) == ("60.00 [53.08, 66.50]", ["60.00", "53.08", "66.50", "200"])
    beside = Cell(60.0, 53.084, 66.5, 200, "outside tolerance", published=(99.93, 1.5))
    assert str(beside) == "99.93 (tolerance 1.5); 60.00 [53.08, 66.50] n=200: outside tolerance"
    assert (beside.value, beside.tolerance, beside.difference) == ("99.93", "1.5", "-39.93")
    alone = Cell(None, published=(99.93, 1.5))
    assert (str(alone), alone.difference, alone.numbers) == ("99.93 (tolerance 1.5)", "", [""] * 4)
    assert str(Cell(None)) == "n/a" and str(Cell(0.5)) == "0.50"


@pytest.mark.parametrize(
    ("states", "look"),
    [
        (["reproduced", "outside tolerance"], "bad"),
        (["holds", "holds"], "good"),
        (["reproduced", "not run"], "wait"),
        # The word "outside" in a reason does not make it a failure.
        (["skipped"], "wait"),
        (["undecided"], "wait"),
        ([], "wait"),
    ],
)
def test_how_states_look_together(states: list[str], look: str) -> None:
    assert look_of(states) == look


def test_one_grid_in_every_flat_form() -> None:
    scale = SCALES["success"]
    cells = (Cell(0.5, 0.25, 0.75, 4, scale=scale), "5; [odd] 1")
    changes = (Cell(-0.25, -0.5, 0.0, 4, scale=scale.of_change), Cell(None))
    grid = Grid("t", "T", "C.", ("edited", "-1"), ("a", "b"), (Line(("x", "-2"), cells, changes, (4, 0, 1)),))
    assert grid_csv(grid).decode().splitlines() == [
        "edited,-1,a,b,n,failed,excluded",
        'x,\'-2,"50.0 [25.0, 75.0]",5; [odd] 1,4,0,1',
        f'{CHANGE},\'-2,"-25.0 [-50.0, 0.0]",n/a,,,',
    ]
    markdown = template("table.md.j2").render(grid=grid)
    assert (
        f"| x | -2 | 50.0 [25.0, 75.0] | 5; [odd] 1 | 4 | 0 | 1 |\n| {CHANGE} | -2 | -25.0 [-50.0, 0.0] |" in markdown
    )
    latex = template("table.tex.j2").render(grid=grid, prefix="", of="", change_words=CHANGE)
    assert (
        r"\klocstack[r]{$50.0$\\ \klocinterval{25.0, 75.0}} & 5; {[}odd] 1 & \klocstack[r]{4\\ 1 excluded} \\" in latex
    )
    assert r"& \klocstack[r]{$-25.0$\\ \klocinterval{-50.0, 0.0}} & n/a &  \\" in latex


@pytest.mark.parametrize("path", sorted(paper_folder().glob("*.j2")), ids=lambda path: path.name)
def test_no_template_takes_a_text_apart(path: Path) -> None:
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", path.read_text(), re.DOTALL))
    assert re.findall(TAKEN_APART, code) == []
