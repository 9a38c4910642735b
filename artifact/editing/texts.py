"""A source of texts as a stream: a text file, JSON lines, standard input, or the embedded world's corpus; and a real
English text that every Python brings, its documentation.

Covers reading line by line with the place and the hash of all that was read, and finding that place again. No text is
drawn at random, and none is changed but for its line's end.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from artifact.errors import SettingError
from artifact.io import NOT_JSON, open_regular

_BLOCK = 1 << 22
_PROSE_WORDS = 12
"""Fewest words of a paragraph that counts as prose."""


@dataclass(frozen=True)
class Source:
    """Where texts come from: a name for records, its bytes, one text a line or one JSON object a line.

    What cannot be read again from its start is not `resumable`. As a context it closes what was opened for it.
    """

    name: str
    stream: BinaryIO
    form: Literal["txt", "jsonl"] = "txt"
    resumable: bool = True

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *raised: object) -> None:
        if self.resumable:  # standard input is the process's own
            self.stream.close()


def open_source(texts: str) -> Source:
    """The source named on a command line: a .txt or .jsonl file, or - for standard input, one text a line.

    Raises SettingError for a file that cannot be read or has another ending.
    """
    if texts == "-":
        return Source("standard input", sys.stdin.buffer, resumable=False)
    path = Path(texts)
    form = path.suffix.removeprefix(".").lower()
    if form not in ("txt", "jsonl"):
        raise SettingError(f"{texts}: is neither .txt nor .jsonl; give a file of one text a line, or - for a pipe")
    try:
        stream = open_regular(path)
    except OSError as error:
        raise SettingError(f"{texts}: cannot be read ({error.strerror}); give a readable file of texts") from None
    return Source(path.name, stream, "jsonl" if form == "jsonl" else "txt")


def world_source() -> Source:
    """The embedded world's training statements."""
    from artifact.world.facts import DEFAULT_SEED, generate

    corpus = "\n".join(generate(DEFAULT_SEED).corpus())
    return Source("the embedded world's corpus", io.BytesIO(corpus.encode()))


def documentation() -> tuple[list[str], str]:
    """The paragraphs of prose in Python's own documentation (pydoc_data), in the order of its topics, and what they are
    in words. They differ a little between versions of Python.
    """
    from pydoc_data.topics import topics

    parts = (" ".join(part.split()) for name in sorted(topics) for part in topics[name].split("\n\n"))
    prose = dict.fromkeys(part for part in parts if len(part.split()) >= _PROSE_WORDS and "::" not in part)
    version = ".".join(map(str, sys.version_info[:2]))
    return list(prose), f"{len(prose)} paragraphs of Python {version}'s documentation"


class _Line(msgspec.Struct):
    text: str


class Reader:
    """Texts of a source line by line, with what was read so far: bytes, lines and their hash."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._json = msgspec.json.Decoder(_Line)
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.lines = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """The texts that are left; lines without any are passed over. SettingError names file and line."""
        while line := self._take(self._source.stream.readline):
            self.lines += 1
            if self.lines == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield self._text(line)

    def go_to(self, size: int, lines: int, sha256: str) -> bool:
        """Read the first `size` bytes again, which were `lines` lines with that hash; False when they are others."""
        while self.bytes < size:
            many = min(_BLOCK, size - self.bytes)
            if not self._take(partial(self._source.stream.read, many)):
                return False
        self.lines = lines
        return self.sha256 == sha256

    def _take(self, read: Callable[[], bytes]) -> bytes:
        try:
            block = read()
        except OSError as error:
            raise SettingError(f"{self._source.name}: cannot be read ({error.strerror}); give a readable one") from None
        self._digest.update(block)
        self.bytes += len(block)
        return block

    def _text(self, line: bytes) -> str:
        try:
            return self._json.decode(line).text if self._source.form == "jsonl" else line.decode().rstrip("\r\n")
        except NOT_JSON as error:
            expected = 'a JSON object with the field "text"' if self._source.form == "jsonl" else "UTF-8"
            raise SettingError(
                f"{self._source.name}: line {self.lines} is not {expected} ({error}); correct the line"
            ) from None
