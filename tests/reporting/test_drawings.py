"""Figures are drawn once: read back while right, drawn again when numbers, code or files changed."""

from pathlib import Path

import pytest

from artifact.reporting.drawings import INDEX, Drawings


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
    files = drawings.files("a", numbers, draw)
    for name, content in files.items():
        (folder / "figures" / name).write_bytes(content)
    (folder / INDEX).write_bytes(drawings.content)
    return files


def test_a_figure_is_drawn_once(tmp_path: Path) -> None:
    draw = Drawn()
    assert ask(tmp_path, draw) == ask(tmp_path, draw) == {"a.png": b"picture", "a.pdf": b"page"}
    assert draw.count == 1


@pytest.mark.parametrize("change", ["numbers", "code", "file", "missing", "index"])
def test_it_is_drawn_again_where_anything_changed(tmp_path: Path, change: str) -> None:
    draw = Drawn()
    ask(tmp_path, draw)
    if change == "file":
        (tmp_path / "figures/a.png").write_bytes(b"pictur3")
    elif change == "missing":
        (tmp_path / "figures/a.pdf").unlink()
    elif change == "index":
        (tmp_path / INDEX).write_bytes(b"{")
    found = ask(tmp_path, draw, b"2" if change == "numbers" else b"1", b"new" if change == "code" else b"code")
    assert draw.count == 2 and found["a.png"] == b"picture"
