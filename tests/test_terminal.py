"""What is printed: one line that a terminal shows as it stands, whatever a name or a message holds."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact.terminal import complain, muted, say, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, é, 東京, 👩\u200d🚀, ن\u200cم", "plain, é, 東京, 👩\u200d🚀, ن\u200cم"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines\r\n\ttab", "two\\nlines\\r\\n\\ttab"),
        ("\u202egnp.exe \u2066x", "\\u202egnp.exe \\u2066x"),
        ("\udcff \x00 \x9b \x07 \u2028", "\\udcff \\x00 \\x9b \\x07 \\u2028"),
        ("a\xa0b", "a\xa0b"),
        (7, "7"),
    ],
)
def test_text_in_one_line(text: object, line: str) -> None:
    assert shown(text) == line


@given(st.text())
def test_no_text_moves_a_cursor(text: str) -> None:
    for mark in shown(text):
        assert unicodedata.category(mark) not in ("Cc", "Cs", "Zl", "Zp") and unicodedata.bidirectional(mark) not in (
            *("LRE", "RLE", "LRO", "RLO", "PDF"),
            *("LRI", "RLI", "FSI", "PDI"),
        )


def test_what_a_library_writes_past_python_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    say("before")
    with muted():
        os.write(1, b"ignored")
        os.write(2, b"panicked")
    say("after")
    complain("too")
    assert tuple(capfd.readouterr()) == ("before\nafter\n", "kloc: too\n")


def test_lines_go_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    say("out\x1b[2J")
    say()
    complain(f"a\n  message \x07 with {'x' * 5000}")
    out, error = capsys.readouterr()
    assert out == "out\\x1b[2J\n\n"
    assert error.startswith("kloc: a message \\x07 with xxx") and error.count("\n") == 1 and len(error) < 350
