"""How a run shows where it is: a live bar on a terminal, plain lines elsewhere. It decides nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from artifact.terminal import say, shown

_SECONDS_BETWEEN_LINES = 5.0


class Bar:
    """Counts the cases of one unit."""

    def __init__(self, name: str, total: int, progress: Progress | None) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._done = self._failed = self._excluded = 0
        self._said = time.monotonic()
        if progress:
            self._task = progress.add_task(name, total=total)

    def advance(self, cases: int, failed: int = 0, excluded: int = 0) -> None:
        """`cases` more have a record, of which so many failed or do not count; shown at once on a terminal, every few
        seconds and at the end elsewhere.
        """
        self._done += cases
        self._failed, self._excluded = self._failed + failed, self._excluded + excluded
        parts = [f"{n} {word}" for n, word in ((self._failed, "failed"), (self._excluded, "excluded")) if n]
        words = f" ({', '.join(parts)})" if parts else ""
        if self._progress:
            self._progress.update(self._task, advance=cases, description=f"{self._name}{words}")
        elif self._done == self._total or time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            say(f"{self._name}: {self._done}/{self._total} cases{words}")


class Display:
    """Lines and bars of one run."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def say(self, line: str) -> None:
        """One line, above the bars on a terminal."""
        if self._progress:
            self._progress.console.print(shown(line), markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)

    def bar(self, name: str, total: int) -> Bar:
        return Bar(name, total, self._progress)


@contextmanager
def display() -> Iterator[Display]:
    """A display for as long as the block lasts: rich on a terminal, plain lines otherwise."""
    if not sys.stdout.isatty():
        yield Display(None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console()) as progress:
        yield Display(progress)
