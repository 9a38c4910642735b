"""Files that a user names, read whole: regular ones of a bounded size, and JSON of a bounded depth.

Covers what a shell can hand over instead: folders, pipes, devices, bytes that are not text, deep or ambiguous JSON.
Each is an error that names the file and how to mend it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from artifact.errors import ArtifactError, FactError
from artifact.io import open_regular, reason

FILE_LIMIT = 1 << 30
"""Most bytes of a file that is read whole."""
SMALL = 1 << 20
"""Size up to which names that occur twice are looked for: files of settings and requests are written by hand."""


def read_bytes(
    path: Path | str,
    error: type[ArtifactError] = FactError,
    remedy: str = "give a readable JSON file",
    limit: int | None = None,
) -> bytes:
    """The bytes of a file; `error` names it when it cannot be read, is not a regular file, or is larger than `limit`
    (default: FILE_LIMIT).
    """
    limit = FILE_LIMIT if limit is None else limit
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as failure:
        raise error(f"{path}: cannot be read ({reason(failure)}); {remedy}") from None
    if len(content) > limit:
        raise error(f"{path}: is larger than {limit} bytes; {remedy}")
    return content


def read_json(path: Path | str) -> object:
    """Decoded JSON of `path`; FactError names the file when it is missing, too large, or not JSON."""
    return decode_json(read_bytes(path), str(path))


def decode_json(content: bytes, source: str) -> object:
    """Decoded JSON; FactError names `source` when it is not JSON, is nested too deeply, or says one thing twice.

    NaN and infinities are not JSON. A byte-order mark is passed over.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FactError(f"{source}: is not valid JSON ({error}); give a JSON file") from None
    except RecursionError:
        raise FactError(f"{source}: is nested too deeply; give a list of records") from None
    if len(content) <= SMALL:
        refuse_twins(content, source)
    return decoded


def refuse_twins(content: bytes, source: str) -> None:
    """FactError for a name that occurs twice in one object: the decoder takes the last value in silence."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (twin := name_given_twice(pairs)) is not None:
            raise FactError(f"{source}: holds {twin!r} twice in one object; keep one of them")
        return dict(pairs)

    try:
        json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return  # it is JSON, only not to this reader: a number of thousands of digits


def name_given_twice(pairs: Sequence[tuple[str, object]]) -> str | None:
    """The first name that occurs twice among an object's pairs, or None."""
    names = [name for name, _ in pairs]
    return next((name for name, count in Counter(names).items() if count > 1), None)


def whole_number(text: str) -> int | None:
    """The whole number that a text is, of at most 18 digits; None for any other."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
