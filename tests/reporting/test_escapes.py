"""Text from outside stays text in each form of a report, and chooses no file."""

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from artifact.reporting import figures
from artifact.reporting.cells import Cell, Grid, Line, Scale
from artifact.reporting.escapes import csv_bytes, file_name, latex, markdown, markdown_code, markdown_label
from artifact.reporting.expected import load_expected
from artifact.reporting.report import Report, make_report
from artifact.reporting.tables import counted_reasons
from artifact.reporting.templates import template
from artifact.runs.store import Store, reading

EXAMPLE = Path(__file__).parents[2] / "results" / "example-world"
HOSTILE = "](http://x) <script>alert(1)</script> a|b `c` \\ $x$ &lt; ![i](j) [t][r] *s* \x1b[2J\u202e\nnext"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("](http://x)", r"\](http\://x)"),
        ("![a](b)", r"\![a\](b)"),
        ("[a][b]: c", r"[a\][b\]: c"),
        ("a|b\\|c", r"a\|b\\\|c"),
        ("<script>", r"\<script\>"),
        ("`x` *y* _z_ ~w~", r"\`x\` \*y\* \_z\_ \~w\~"),
        ("&lt; &#60; AT&T", r"\&lt; \&#60; AT&T"),
        ("www.x.org a@b.c", r"www\.x.org a\@b.c"),
        ("two\n\nlines\x1b", r"two lines\\x1b"),
        ("70.0 [60.0, 80.0]", "70.0 [60.0, 80.0]"),
    ],
)
def test_markdown(text: str, line: str) -> None:
    assert markdown(text) == line


def test_markdown_of_labels_and_code() -> None:
    assert markdown_label("a] [b") == r"a\] \[b"
    assert markdown_label("a](b") == r"a\](b"
    assert markdown_code("kloc smoke") == "`kloc smoke`"
    assert markdown_code("a `b` ``c``") == "``` a `b` ``c`` ```"
    assert markdown_code("a\nb") == r"`a\nb`"


def test_latex() -> None:
    assert latex("a\\b_{c}^~%&#$") == r"a\textbackslash{}b\_\{c\}\textasciicircum{}\textasciitilde{}\%\&\#\$"
    assert latex("\x1b \u202e\r") == r"\textbackslash{}x1b \textbackslash{}u202e\textbackslash{}r"
    grid = Grid("t", "t", "c", ("a", "b"), ("n",), (Line(("x", "y"), ("1 [\\input{x}]",)),))
    assert "\\input{x}" not in template("table.tex.j2").render(grid=grid, prefix="", of="")


def test_csv_holds_no_formula_and_its_numbers_stay_numbers() -> None:
    texts = ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "-1.5", "\t=1", "a,b\n"]
    signed = Scale(1, signed=True)
    numbers = [Scale(1)(-1.5), signed(0.25), -1e-05, Cell(1, -0.5, 1.5, scale=signed)]
    (_, row) = csv.reader(io.StringIO(csv_bytes(map(str, range(11)), [[*texts, *numbers]]).decode()))
    # A name that looks like a number is a text all the same.
    assert row[:7] == ["'=1+1", "'+cmd|x", "'-2+3", "'@SUM(A1)", "'-1.5", r"\t=1", r"a,b\n"]
    assert row[7:] == ["-1.5", "+0.2", "-1e-05", "+1.0 [-0.5, +1.5]"]


def test_a_name_chooses_no_other_folder() -> None:
    assert file_name("../../etc/x y") == "..-..-etc-x-y"
    assert file_name("mlp-entity.2") == "mlp-entity.2"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The example's report, with every text of its description replaced by marks of all kinds."""

    def info(store: Store) -> object:
        found = _info(store)
        texts = {name: HOSTILE for name in TEXTS}
        return msgspec.structs.replace(
            found,
            **texts,
            given={"--facts": HOSTILE},
            settings={"rome": {"hash": HOSTILE, "source": HOSTILE}, **found.settings},
            plan=msgspec.structs.replace(found.plan, title=HOSTILE),
        )

    _info = Store.info
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "info", info)
        patch.setattr(Store, "environments", lambda store: [{"host": HOSTILE}])
        patch.setattr(
            "artifact.reporting.verdict.counted_reasons",
            lambda store: (
                [msgspec.structs.replace(one, text=HOSTILE) for one in counted_reasons(store)] or [FakeReason()]
            ),
        )
        with reading(EXAMPLE) as store:
            return make_report([store], load_expected(), tmp_path_factory.mktemp("report"), by_model=True)


TEXTS = ("model", "model_reason", "revision", "weights_sha256", "device", "dtype", "data_source", "data_sha256")
TEXTS += ("data_note", "evidence_note", "protocol")


class FakeReason:
    count, status, text, units, first_cases, more = 1, "failed", HOSTILE, {HOSTILE: 1}, [1], False


def test_the_markdown_holds_no_link_and_no_html_of_others(hostile: Report) -> None:
    def walk(tokens: list[Token]) -> Iterator[Token]:
        for token in tokens:
            yield token
            yield from walk(token.children or [])

    text = hostile.files["report.md"].decode()
    found = list(walk(MarkdownIt("commonmark").enable("table").parse(text)))
    assert not [token for token in found if token.type in ("link_open", "html_inline", "html_block")]
    images = [token for token in found if token.type == "image"]
    assert images and all(str(token.attrs["src"]).startswith("figures/") for token in images)
    shown = "".join(token.content for token in found if token.type in ("text", "code_inline"))
    assert shown.count("<script>alert(1)</script> a|b `c`") > len(TEXTS)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows and "\x1b" not in text and "\u202e" not in text


def test_the_page_runs_nothing_of_others(hostile: Report) -> None:
    class Tags(HTMLParser):
        found: list[tuple[str, list]] = []

        def handle_starttag(self, tag: str, attrs: list) -> None:
            self.found.append((tag, attrs))

    text = hostile.files["report.html"].decode()
    Tags().feed(text)
    assert not [tag for tag, _ in Tags.found if tag in ("script", "iframe")]
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > len(TEXTS)
    assert "\x1b" not in text and "\u202e" not in text


def test_tables_and_names_of_files_hold_nothing_of_others(hostile: Report) -> None:
    assert all(re.fullmatch(r"([a-z]+/)?[A-Za-z0-9._-]+", name) and ".." not in name for name in hostile.files)
    for name, content in hostile.files.items():
        if name.endswith(".tex"):
            assert b"<script>" not in content and b"\x1b" not in content


def test_a_figure_takes_tokens_of_any_kind(tmp_path: Path) -> None:
    tokens = [r"$\frac{", "東京", "a\nb", "\x1b[2J", "\u202e", "w" * 5000, "\\$x$", "\ufffd", ""]
    trace = {"tokens": tokens, "span": [0], "answer": " $5 東", "scores": [[0.1, 0.2]] * len(tokens), "corrupted": 0.1}
    for form in ("png", "pdf"):
        figures.trace_figure(trace, tmp_path / f"trace.{form}")
        assert (tmp_path / f"trace.{form}").stat().st_size > 1000


def test_a_figure_of_a_long_prompt_is_drawn(tmp_path: Path) -> None:
    trace = {"tokens": ["a"] * 2000, "span": [0], "answer": "b", "scores": [[0.1]] * 2000, "corrupted": 0.1}
    figures.trace_figure(trace, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 1000
