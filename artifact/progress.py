"""How a command shows where it is: live bars on a terminal, plain lines every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from artifact.terminal import say, shown

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0
Words = Callable[[float], str]
"""What is done in words, by the rate a second."""


class Bar:
    """What is done of one thing, such as a unit's cases or a file's bytes."""

    def __init__(self, name: str, progress: "Progress | None", ends: bool) -> None:
        self._name, self._progress, self._ends = name, progress, ends
        self._task = progress.add_task(name, total=None, words="") if progress else None
        self._began = self._said = time.monotonic()
        self._first: float | None = None

    def at(self, done: float, total: float | None, words: Words) -> None:
        """So much is done. The rate leaves out what was there before, and begins again where less is done."""
        now = time.monotonic()
        if self._first is None or done < self._first:
            self._began, self._first = now, done
        rate = (done - self._first) / max(now - self._began, 1e-9)
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, words=shown(words(rate)))
        elif now - self._said > _SECONDS_BETWEEN_LINES or (self._ends and done == total):
            self._said = now
            say(f"{self._name}: {words(rate)}")


class Display:
    """Lines and bars of one command; lines stand above the bars on a terminal."""

    def __init__(self, progress: "Progress | None" = None) -> None:
        self._progress = progress

    def say(self, line: str) -> None:
        """One line."""
        if self._progress:
            self._progress.console.print(shown(line), markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def bar(self, name: str, ends: bool = False) -> Bar:
        """A bar; with `ends` the last state has a plain line however early it comes."""
        return Bar(name, self._progress, ends)


@contextmanager
def display() -> Iterator[Display]:
    """A display for as long as the block lasts: rich on a terminal, plain lines otherwise."""
    if not sys.stdout.isatty():
        yield Display()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    name, words = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[words]"))
    with Progress(name, BarColumn(), words, TimeRemainingColumn(), console=Console()) as progress:
        yield Display(progress)
