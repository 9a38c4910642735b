"""The templates of `paper/`, with their filters, compiled once.

Covers escaping and the cache of compiled templates. What fills them is report.py's.
"""

import hashlib
import re
import textwrap
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from artifact.errors import SettingError
from artifact.facts.fact import NO_RELATION
from artifact.io import write_atomically
from artifact.reporting.cells import look_of
from artifact.reporting.escapes import latex, markdown, markdown_code, markdown_label, plain
from artifact.reporting.resources import paper_folder
from artifact.sizes import count_of
from artifact.sources.cache import cache_folder

_SEAL = hashlib.sha256().digest_size


def template(name: str) -> jinja2.Template:
    """A template of `paper/`; only what fills the page is escaped as HTML."""
    return _environment().get_template(name)


def compile_templates() -> None:
    """Compile all templates now, or read them from the cache."""
    for name in _environment().list_templates():
        if name.endswith(".j2"):
            template(name)


class _Compiled(jinja2.BytecodeCache):
    """Compiled templates in the cache folder, as Python keeps compiled modules.

    A file begins with a seal. One that is missing, damaged, of another version or not to be written costs time alone.
    """

    def load_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError, SettingError):
            content = _place(bucket).read_bytes()
            if content[:_SEAL] == _seal(content[_SEAL:]):
                bucket.bytecode_from_string(content[_SEAL:])

    def dump_bytecode(self, bucket: Bucket) -> None:
        content = bucket.bytecode_to_string()
        with suppress(OSError, SettingError):
            write_atomically(_place(bucket), _seal(content) + content)


def _place(bucket: Bucket) -> Path:
    return cache_folder() / "templates" / bucket.key


def _seal(content: bytes) -> bytes:
    """sha256 of a compiled template and of what compiled it: jinja2's version, and this file's filters and settings."""
    return hashlib.sha256(_made_by() + content).digest()


@cache
def _made_by() -> bytes:
    return jinja2.__version__.encode() + Path(__file__).read_bytes()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paper_folder()),
        bytecode_cache=_Compiled(),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=plain,
    )
    environment.filters.update(
        latex=latex,
        cell=markdown,
        label=markdown_label,
        code=markdown_code,
        look=look_of,
        wrapped=_wrapped,
        count_of=count_of,
        clause=lambda text: str(text).rstrip("."),
        sentence=lambda text: str(text)[:1].upper() + str(text)[1:],
        groupby_run=lambda columns: [
            list(side) for _, side in groupby(columns, lambda column: (column.perspective, column.foil))
        ],
        quoted=lambda text: f"“{text}”" if text == NO_RELATION else text,
        # A typographic minus before digits; files that programs read keep the plain one.
        minus=lambda text: re.sub(r"(?<![\w.])-(?=\d)", "−", str(text)),
    )
    return environment


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of about so many characters; words stay whole."""
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
    return [part for parts in lines for part in parts] or [""]
