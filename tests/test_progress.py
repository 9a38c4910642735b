"""One way to show where a command is: lines every few seconds, or bars with the same words on a terminal."""

import io

import pytest
from rich.console import Console

from artifact import progress
from artifact.progress import Display, display


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_lines_come_every_few_seconds_with_the_rate_since_the_start(clock: Clock, capsys) -> None:
    bar = Display().bar("file")
    for clock.now, done in ((0, 100), (1, 130), (6, 220), (7, 240), (12, 340), (13, 400)):
        bar.at(done, 400, lambda rate, done=done: f"{done} of 400, {rate:.0f} a second")
    assert capsys.readouterr().out.splitlines() == ["file: 220 of 400, 20 a second", "file: 340 of 400, 20 a second"]


def test_where_less_is_done_the_rate_begins_anew(clock: Clock, capsys) -> None:
    bar = Display().bar("file")
    for clock.now, done in ((0, 100), (2, 0), (8, 60)):
        bar.at(done, None, lambda rate: f"{rate:.0f} a second")
    assert capsys.readouterr().out == "file: 10 a second\n"


def test_the_end_is_said_where_it_is_asked_for(clock: Clock, capsys) -> None:
    bar = Display().bar("unit", ends=True)
    for done in (1, 2, 3):
        bar.at(done, 3, lambda rate, done=done: f"{done}/3 cases")
    assert capsys.readouterr().out == "unit: 3/3 cases\n"


def test_a_terminal_has_a_bar_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with display() as show:
        show.say("a line [bold]as it stands")
        show.bar("unit").at(2, 4, lambda rate: "2/4 cases [1 failed]")
    assert "a line [bold]as it stands" in screen.getvalue() and "2/4 cases [1 failed]" in screen.getvalue()
