"""Lines for a person: what is printed moves no cursor, fits any encoding, and ends no work when nobody can read it.

Covers the one way in which this package prints. Text from outside (names of files, prompts, messages of libraries)
stands in these lines with its control characters, line ends and marks of direction as backslash escapes.
"""

import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_LONGEST_WORD = 300
"""Characters of a word of an error's line; a longer one (a path, as a rule) is cut in its middle."""
_JOINERS = "\u200c\u200d"
"""Invisible, and yet spelling: Persian, Indian scripts and families of emoji need them."""


def shown(text: object) -> str:
    """`text` in one line that a terminal prints as it stands: each other character as Python would write it."""
    found = str(text)
    return found if found.isprintable() else "".join(map(_shown, found))


def without_quotes(reason: str) -> str:
    """A reason without the texts that it quotes, so that reasons of one kind are one."""
    return re.sub(r"""'[^']*'|"[^"]*\"""", "...", reason)


def short(text: str, most: int = 60) -> str:
    """`text` for a message of one line: its first characters, `most` with the dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def say(text: object = "") -> None:
    """Print one line to standard output. Where it cannot be written, the work goes on, and `speaking` knows."""
    _write(sys.stdout, f"{shown(text)}\n")


def complain(text: object) -> None:
    """Print an error to standard error, as one line that opens with the command's name."""
    words = " ".join(_shortened(word) for word in str(text).split())
    _write(sys.stderr, f"kloc: {shown(words)}\n")


class Heard:
    """Whether standard output took all that was said; `lost` is why not, empty otherwise."""

    def __init__(self) -> None:
        self.lost = ""
        self.left = False
        """The reader of a pipe has gone, which is not an error."""

    def lose(self, error: Exception) -> None:
        """Take a failed write: all that follows goes nowhere."""
        if isinstance(error, BrokenPipeError):
            self.left = True
        else:
            self.lost = getattr(error, "strerror", None) or "it is closed"
        sys.stdout = _Nowhere()


_heard = Heard()


@contextmanager
def speaking() -> Iterator[Heard]:
    """For as long as a command works: characters that an encoding does not have are escaped, losses are kept."""
    global _heard
    before, stdout = _heard, sys.stdout
    _heard = found = Heard()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        found.lose(ValueError("closed"))
    try:
        yield found
        if sys.stdout is stdout:
            _flush(found)
    finally:
        _heard, sys.stdout = before, stdout


def _flush(found: Heard) -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        found.lose(error)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode())
        stream.flush()
    except (OSError, ValueError) as error:
        if stream is sys.stdout:
            _heard.lose(error)


class _Nowhere(io.StringIO):
    """Takes what is written after standard output was lost."""

    def write(self, text: str) -> int:
        return len(text)


def _shown(mark: str) -> str:
    if mark.isprintable() or mark in _JOINERS or unicodedata.category(mark) == "Zs":
        return mark
    return mark.encode("unicode_escape").decode()


def _shortened(word: str) -> str:
    return word if len(word) <= _LONGEST_WORD else f"{word[:160]}...{word[-100:]}"


def keep_descriptors() -> None:
    """Open what is closed of standard input, output and error: else the next file to be opened would take its place,
    and a library that prints would write into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def silence(*numbers: int) -> None:
    """Let what is written to these open files go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def muted() -> Iterator[None]:
    """Let what a library writes past Python go nowhere: its names for what it ignores, and its panics, which it raises
    as well. Covers standard output and error.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()  # what was said before stands
    kept = [os.dup(number) for number in (1, 2)]
    try:
        silence(1, 2)
        yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
