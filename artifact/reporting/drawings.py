"""Figures drawn once: a figure whose numbers have not changed is read back from the report instead of drawn again.

Covers deciding that, by the sha256 of all that a figure is drawn from (its numbers, the code that words and draws it,
the versions of the libraries) and of the files themselves, both kept in figures/drawn.json. A damaged or missing file
is drawn again. The fonts and the style are the library's and the code's own (figures.py).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from artifact.errors import RunError
from artifact.io import NOT_JSON
from artifact.reading import read_bytes

INDEX = "figures/drawn.json"
LIBRARIES = ("matplotlib", "numpy", "pillow", "kiwisolver", "fonttools")
"""What draws, writes the PNG, lays out and embeds fonts: another version may give other bytes."""
_PACKAGE = Path(__file__).parents[1]
CODE = tuple(sorted([*_PACKAGE.glob("reporting/*.py"), *_PACKAGE.glob("tracing/*.py"), _PACKAGE / "terminal.py"]))
"""Files that make a figure's words, numbers and looks: titles, kinds of traces, roles and their averages, escapes."""


class _Drawn(msgspec.Struct, frozen=True):
    """What a figure was drawn from, and the sha256 of each of its files."""

    source: str
    files: dict[str, str]


class Drawings:
    """The figures of one report folder; `content` is what drawn.json holds after all were asked for."""

    def __init__(self, report_folder: Path, code: Sequence[Path] = CODE) -> None:
        """`code`: the files whose change makes every figure stale."""
        self._folder = report_folder
        versions = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
        self._made_with = " ".join([*versions, *(_sha256(file.read_bytes()) for file in code)])
        self._asked: dict[str, _Drawn] = {}
        try:
            self._known = msgspec.json.decode(read_bytes(report_folder / INDEX, RunError), type=dict[str, _Drawn])
        except (RunError, *NOT_JSON):
            self._known = {}

    @property
    def none_yet(self) -> bool:
        """Whether no figure was drawn there before."""
        return not self._known

    def files(
        self,
        numbers: Mapping[str, bytes],
        forms: Sequence[str],
        draw: Callable[[Sequence[str]], Sequence[Sequence[bytes]]],
    ) -> dict[str, bytes]:
        """The figures' files by name, drawn from these `numbers` by the figure's name.

        `draw` is given the names of those that are not there already, and returns each one's content in all `forms`.
        """
        sources = {name: _sha256(self._made_with.encode() + content) for name, content in numbers.items()}
        found = {
            name: self._read(name, [f"{name}.{form}" for form in forms], source) for name, source in sources.items()
        }
        stale = [name for name, contents in found.items() if contents is None]
        for name, made in zip(stale, draw(stale) if stale else (), strict=True):
            found[name] = {f"{name}.{form}": content for form, content in zip(forms, made, strict=True)}
        files: dict[str, bytes] = {}
        for name, source in sources.items():
            contents = found[name] or {}
            self._asked[name] = _Drawn(source, {file: _sha256(content) for file, content in contents.items()})
            files |= contents
        return files

    @property
    def content(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self._asked, order="sorted"), indent=1) + b"\n"

    def _read(self, name: str, files: Sequence[str], source: str) -> dict[str, bytes] | None:
        known = self._known.get(name)
        if known is None or known.source != source:
            return None
        contents = {}
        for file in files:
            try:
                contents[file] = read_bytes(self._folder / "figures" / file, RunError)
            except RunError:
                return None
            if _sha256(contents[file]) != known.files.get(file):
                return None
        return contents


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
