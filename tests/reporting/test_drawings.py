"""Figures are drawn once: read back while right, drawn again when numbers, code or files changed; by two processes."""

import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import IO

import msgspec
import pytest

from artifact.reporting import drawing, figures
from artifact.reporting import drawings as drawings_module
from artifact.reporting.drawings import CODE, INDEX, Drawings
from artifact.reporting.edit_charts import EditChart, EditPanel
from artifact.reporting.intervals import Estimate


class Drawn:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, stale: Sequence[str]) -> list[list[bytes]]:
        self.count += len(stale)
        return [[b"picture", b"page"] for _ in stale]


def ask(folder: Path, draw: Drawn, numbers: bytes = b"1", code: bytes = b"code") -> dict[str, bytes]:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    source = folder / "code.py"
    source.write_bytes(code)
    drawings = Drawings(folder, [source])
    files = drawings.files({"a": numbers}, ("png", "pdf"), draw)
    for path, content in ((INDEX, drawings.content), *((f"figures/{name}", made) for name, made in files.items())):
        (folder / path).unlink(missing_ok=True)
        (folder / path).write_bytes(content)
    return files


def test_a_figure_is_drawn_once(tmp_path: Path) -> None:
    draw = Drawn()
    assert ask(tmp_path, draw) == ask(tmp_path, draw) == {"a.png": b"picture", "a.pdf": b"page"}
    assert draw.count == 1


@pytest.mark.parametrize("change", ["numbers", "code", "file", "missing", "index", "pipe", "pipe for index", "names"])
def test_it_is_drawn_again_where_anything_changed(tmp_path: Path, change: str) -> None:
    draw = Drawn()
    ask(tmp_path, draw)
    if change == "file":
        (tmp_path / "figures/a.png").write_bytes(b"pictur3")
    elif change == "missing":
        (tmp_path / "figures/a.pdf").unlink()
    elif change == "index":
        (tmp_path / INDEX).write_bytes(b"{")
    elif change == "pipe":
        (tmp_path / "figures/a.pdf").unlink()
        os.mkfifo(tmp_path / "figures/a.pdf")
    elif change == "pipe for index":
        (tmp_path / INDEX).unlink()
        os.mkfifo(tmp_path / INDEX)
    elif change == "names":  # another folder's file in the place of one of the figure's
        known = msgspec.json.decode((tmp_path / INDEX).read_bytes())
        known["a"]["files"]["../code.py"] = known["a"]["files"].pop("a.pdf")
        (tmp_path / INDEX).write_bytes(msgspec.json.encode(known))
    found = ask(tmp_path, draw, b"2" if change == "numbers" else b"1", b"new" if change == "code" else b"code")
    assert draw.count == 2 and found["a.png"] == b"picture"


@pytest.mark.parametrize("library", ["matplotlib", "pillow", "kiwisolver", "numpy", "fonttools"])
def test_another_library_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Pillow writes the PNG, kiwisolver lays out, fonttools embeds: each may change a figure, as matplotlib may."""
    draw, version = Drawn(), drawings_module.metadata.version
    ask(tmp_path, draw)
    monkeypatch.setattr(drawings_module.metadata, "version", lambda name: version(name) + "!" * (name == library))
    ask(tmp_path, draw)
    assert draw.count == 2


def test_all_code_that_words_or_draws_a_figure_counts() -> None:
    """Labels come from charts.py and severed.py, roles from averages.py, escapes from terminal.py."""
    parts = {"figures.py", "charts.py", "severed.py", "averages.py", "terminal.py"}
    assert parts <= {path.name for path in CODE} and all(path.is_file() for path in CODE)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("program", [sys.executable, "/bin/false"])
def test_a_second_process_takes_from_the_end(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """What it draws has the bytes that this process would draw; where it fails, all is drawn here."""
    panel = EditPanel("reliability", Estimate(0.2, 0.1, 0.3, 48), ())
    every = [EditChart("entity", name, (name,), (panel,)) for name in ("one", "two", "three")]
    expected = [list(figures.figure_files(one, ("png", "pdf")).values()) for one in every]
    here = [b"here", b"here"]
    draws, drawers = drawing.draw_here, drawing.Drawers()

    def load(stream: IO[bytes]) -> object:
        try:
            return loads(stream)
        finally:
            answered.set()

    def after_the_first(*given: object) -> list[bytes]:
        """This process's own work, begun when the other one has handed one in, or has ended."""
        while drawers._thread is not None and drawers._thread.is_alive() and not answered.wait(0.01):
            pass
        return draws(*given)

    loads, answered = pickle.load, Event()
    monkeypatch.setattr(pickle, "load", load)
    monkeypatch.setattr(drawing, "_WORTH", 2)
    monkeypatch.setattr(drawing, "draw_here", after_the_first)
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(figures, "figure_bytes", lambda draw, *forms: [b"here" for _ in forms])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with drawers:
        drawers.begin()
        made = drawers.draw(every, ("png", "pdf"))
    assert made[0] == here and all(one in (here, other) for one, other in zip(made, expected, strict=True))
    assert made[2] == (here if program == "/bin/false" else expected[2])
    assert drawers._second is not None and drawers._second.returncode is not None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert drawing.draw_all(every, ("png", "pdf")) == [here, here, here]
