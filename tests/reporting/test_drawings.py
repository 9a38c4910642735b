"""Figures are drawn once: read back while right, drawn again when numbers, code or files changed."""

import os
from pathlib import Path

import msgspec
import pytest

from artifact.reporting import drawings as drawings_module
from artifact.reporting.drawings import CODE, INDEX, Drawings


class Drawn:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, bytes]:
        self.count += 1
        return {"a.png": b"picture", "a.pdf": b"page"}


def ask(folder: Path, draw: Drawn, numbers: bytes = b"1", code: bytes = b"code") -> dict[str, bytes]:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    source = folder / "code.py"
    source.write_bytes(code)
    drawings = Drawings(folder, [source])
    files = drawings.files("a", ["a.png", "a.pdf"], numbers, draw)
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


@pytest.mark.parametrize("library", ["matplotlib", "pillow", "kiwisolver", "numpy"])
def test_another_library_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Pillow writes the PNG and kiwisolver lays out: either may change a figure's bytes, as matplotlib may."""
    draw, version = Drawn(), drawings_module.metadata.version
    ask(tmp_path, draw)
    monkeypatch.setattr(drawings_module.metadata, "version", lambda name: version(name) + "!" * (name == library))
    ask(tmp_path, draw)
    assert draw.count == 2


def test_all_code_that_words_or_draws_a_figure_counts() -> None:
    """Labels come from charts.py and severed.py, roles from averages.py, escapes from terminal.py."""
    parts = {"figures.py", "charts.py", "severed.py", "averages.py", "terminal.py"}
    assert parts <= {path.name for path in CODE} and all(path.is_file() for path in CODE)
