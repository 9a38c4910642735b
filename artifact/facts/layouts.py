"""How a file of facts is laid out: records in JSON or JSON lines, by id, and the layouts of other projects.

The others are recognised by their fields, so that an error can name them and the remedy.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from artifact.errors import FactError
from artifact.io import NOT_JSON
from artifact.reading import SMALL, decode_json, read_bytes, refuse_twins, whole_number

LayoutName = Literal["easyedit", "knowedit", "zsre", "lre"]
"""Those that convert.py turns into our records."""
_LAYOUTS: tuple[tuple[str, frozenset[str], LayoutName | None], ...] = (
    ("KnowEdit's layout", frozenset({"target_new", "portability"}), "knowedit"),
    ("KnowEdit's layout", frozenset({"target_new", "locality"}), "knowedit"),
    ("EasyEdit's layout", frozenset({"target_new"}), "easyedit"),
    ("zsRE's layout", frozenset({"src", "answers"}), "zsre"),
    ("zsRE's layout", frozenset({"src", "alt"}), "zsre"),
    ("zsRE's layout", frozenset({"input", "output", "rephrases"}), None),
    ("LRE's layout of relations", frozenset({"prompt_templates", "samples"}), "lre"),
    ("RippleEdits' layout", frozenset({"example_type", "edit"}), None),
    ("KnowEdit's WikiBio layout", frozenset({"concept", "labels"}), None),
)


def read_rows(path: Path | str) -> object:
    """The decoded records of a file, as `decode_records`; FactError when it cannot be read."""
    return decode_records(read_bytes(path), str(path))


def decode_records(content: bytes, source: str) -> object:
    """Decoded records: JSON, or JSON lines, with or without a byte-order mark; records by id become a list.

    Raises FactError as `decode_json` does.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        decoded = decode_json(content, source)
    except FactError:
        if (rows := _lines(content, source)) is not None:
            return rows
        raise
    if not isinstance(decoded, dict) or {"requested_rewrite", "subject"} & decoded.keys():
        return decoded  # a list, or one record
    if decoded and all(isinstance(row, dict) for row in decoded.values()):
        return [_with_id(row, key) for key, row in decoded.items()]
    return decoded


def _lines(content: bytes, source: str) -> list[object] | None:
    """The records of JSON lines; None for what is not that. FactError for a line that says one thing twice."""
    lines = [line for line in content.splitlines() if line.strip()]
    try:
        rows = [msgspec.json.decode(line) for line in lines]
    except NOT_JSON:
        return None
    if len(rows) < 2:
        return None  # one document, in which something else is wrong
    if len(content) <= SMALL:
        for number, line in enumerate(lines):
            refuse_twins(line, f"{source}: record {number}")
    return rows


def _with_id(row: dict[str, Any], key: object) -> dict[str, Any]:
    """A record by id, with that id where it has none of its own."""
    named = "known_id" if "requested_rewrite" not in row else "case_id"
    return row if named in row or (own := whole_number(str(key))) is None else {named: own, **row}


def refuse_other_layouts(raw: object, source: str) -> None:
    """Raise FactError where the first record is of another project's layout, with its fields and the remedy."""
    first = raw[0] if isinstance(raw, list) and raw else raw
    if not isinstance(first, dict):
        return
    fields = first.keys()
    named, convert = next(((name, known) for name, own, known in _LAYOUTS if own <= fields), (None, None))
    if "requested_rewrite" in fields:
        # One edit a record is CounterFact; MQuAKE has a list of them.
        named, convert = "MQuAKE's layout" if isinstance(first["requested_rewrite"], list) else None, None
    elif {"subject", "prompt"} <= fields and "target_new" not in fields:
        named = None  # known facts, with whatever else
    if named is not None:
        remedy = f"`kloc facts convert FILE --from {convert} --out NEW` makes them" if convert else "see docs/facts.md"
        raise FactError(
            f"{source}: no edit case in this file: it looks like {named} ({', '.join(map(repr, list(fields)[:6]))}); "
            f"expected CounterFact-style records, with requested_rewrite (`kloc facts new` shows two); {remedy}"
        )
