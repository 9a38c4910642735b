r"""Text from outside in a report's files: it stays text, whatever marks it holds.

Names of models, files and subjects and the messages of libraries may hold Markdown, HTML, LaTeX, spreadsheet formulas,
and marks that move a cursor or turn the direction of writing. Each form has its one function here; HTML is escaped by
jinja2 itself. `plain` stands before all of them.
"""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from artifact.terminal import shown

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "\n": " "},
    # After a line's end LaTeX takes [ and * for arguments.
    **{"[": "{[}", "*": "{*}", "`": r"\textasciigrave{}", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$"},
}
_MARKDOWN = re.compile(
    r"[\\`*_|<>~]"
    r"|&(?=#?\w+;)"  # &lt; would be read as <
    r"|\](?=[(\[:])|!(?=\[)"  # links, images and what defines them; brackets alone are text
    r"|(?<=\w):(?=//)|(?<=\bwww)\.|(?<=\w)@(?=\w)"  # addresses that become links by themselves
)


class Number(str):
    """A number as a report writes it: no text from outside, so that a file may hold it as it is."""


def plain(value: Any) -> Any:
    """A template's value: texts with control characters and marks of direction as escapes; line ends and tabs stay."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return re.sub(r"[^\n\t]+", lambda match: shown(match[0]), value)


def markdown(text: object) -> str:
    """Text in a line of Markdown, or a cell of its tables."""
    return _MARKDOWN.sub(r"\\\g<0>", shown(" ".join(str(text).split())))


def markdown_label(text: object) -> str:
    """Text in the brackets of a Markdown link or image."""
    return re.sub(r"(?<!\\)[][]", r"\\\g<0>", markdown(text))


def markdown_code(text: object) -> str:
    """Text as a code span of Markdown, between more backticks than it holds in a row."""
    line = shown(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def latex(text: object) -> str:
    """Plain text as LaTeX prints it: marks escaped, opening quotes told from closing ones, hyphens no dashes."""
    escaped = "".join(_LATEX.get(mark, mark) for mark in plain(str(text)).replace("\t", " "))
    return re.sub(r"-(?=-)", "-{}", re.sub(r"(?<![^\s(])''(?=\S)", "``", escaped))


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """A CSV file. A text that a spreadsheet would take for a formula opens with an apostrophe; a Number, or anything
    that is not text, is written unchanged.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str) or isinstance(cell, Number):
        return cell
    cell = shown(cell)
    return f"'{cell}" if cell[:1] in tuple("=+-@") else cell


def file_name(text: str) -> str:
    """A name from a run's description as a part of a file's name: it chooses no other folder."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)
