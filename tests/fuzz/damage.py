"""Damage to JSON by its structure, and to any file by its bytes; all of it drawn from the generator that is given."""

import json
import random
from typing import Any

ANSI, RTL = "\x1b[31;1m\x1b]0;owned\x07", "\u202egnp.exe\u2066"
MARKUP = "<img src=x onerror=alert(7)> [here](javascript:alert(7)) `code` | \\input{/etc/passwd} $x$ =cmd()"
NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    2**31,
    2**53 + 1,
    -(2**63),
    2**63,
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "\n",
    "\t ",
    "\x00",
    "a\x00b",
    "\ud800",
    "x\udfffy",
    RTL,
    ANSI,
    MARKUP,
    "{}",
    "{} {}",
    "{0.__class__}",
    "%s%n",
    "../../elsewhere/precious",
    "/etc/passwd",
    "x" * 20_000,
    "é" * 300,
    "東京",
    "👩‍👩‍👧",
    "\ufeffBOM",
    "nan",
    "inf",
    "1e999",
    "0x10",
    "１２",
    "None",
    "null",
    [],
    {},
    [[]],
    [None],
    [0],
    [""],
    ["x"],
    {"": ""},
    {"a": {"b": {}}},
)
RAW = (
    "1e999",
    "-1e999",
    "00",
    "1.",
    "NaN",
    "Infinity",
    '"\\ud800"',
    '"\\u0000"',
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
)
Path = tuple[Any, ...]


def json_damage(draw: random.Random, content: bytes, within: Path = ()) -> tuple[bytes, str, Path, str]:
    """Damaged JSON, words for it, the path of the node that was damaged, and how it was: drop, rename, double ..."""
    raw = json.loads(content)
    node = raw
    for step in within:
        node = node[step]
    paths = [(*within, *path) for path in _paths(node) if path] or [within]
    # By depth first: else long lists take all.
    depth = draw.choice(sorted({len(path) for path in paths}))
    path = draw.choice([path for path in paths if len(path) == depth])
    how = draw.choice(("drop", "rename", "double", "nasty", "nasty", "nasty", "raw", "order", "wrap", "swap"))
    holder, last = _at(raw, path[:-1]), path[-1] if path else None
    text, words = None, ""
    if not path:
        return content, "nothing", (), "order"
    if how == "drop":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        name = draw.choice(
            [f"{last}s", f" {last}", last.upper() if last.upper() != last else "x", "", "__class__", ANSI]
        )
        holder[name] = holder.pop(last)
        words = f" to {name!r}"
    elif how == "double" and isinstance(holder, list):
        holder.insert(last, holder[last])
    elif how == "double":
        holder["@@twice@@"] = draw.choice(NASTY[:20])
        text = json.dumps(raw).replace("@@twice@@", json.dumps(last)[1:-1])
    elif how == "raw":
        words = draw.choice(RAW)
        holder[last] = "@@raw@@"
        text = json.dumps(raw).replace('"@@raw@@"', words)
        words = f" = {words[:20]}"
    elif how == "wrap":
        holder[last] = draw.choice(
            ([holder[last]], {"value": holder[last]}, str(holder[last]), json.dumps(holder[last], default=str))
        )
        words = f" = {str(holder[last])[:40]!r}"
    elif how == "swap":
        other = _at(raw, draw.choice(paths))
        holder[last] = json.loads(json.dumps(other))
        words = f" = {str(holder[last])[:40]!r}"
    elif how == "order":
        raw = _shuffled(draw, raw)
    else:
        how = "nasty"
        holder[last] = draw.choice(NASTY)
        words = f" = {holder[last] if isinstance(holder[last], float) else str(holder[last])[:40]!r}"
    where = "".join(f"[{step!r}]" for step in path)
    made = (text or json.dumps(raw)).encode("utf-8", "surrogatepass")
    return made, f"{how} {where}{words}", path, how


def byte_damage(
    draw: random.Random, content: bytes, lowest: int = 0, highest: int | None = None
) -> tuple[bytes, str, str]:
    """Bytes damaged from byte `lowest` to `highest`, words for it, and how: cut, flip, insert, repeat, zero ..."""
    highest = len(content) if highest is None else min(highest, len(content))
    at = draw.randrange(lowest, max(highest, lowest + 1))
    how = draw.choice(("cut", "cut", "flip", "flip", "insert", "repeat", "zero", "empty", "append", "head"))
    data = bytearray(content)
    if how == "cut":
        del data[at:]
    elif how == "flip" and data:
        data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
    elif how == "insert":
        data[at:at] = draw.randbytes(draw.choice((1, 3, 64)))
    elif how == "repeat":
        data[at:at] = data[at : at + draw.choice((1, 8, 512))]
    elif how == "zero":
        length = min(draw.choice((1, 8, 4096)), len(data) - at)
        data[at : at + length] = bytes(length)
    elif how == "empty":
        data = bytearray(
            draw.choice(
                (b"", b"\n", b"\0", b"null", b"[]", b"{}", b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"\x80\x04.")
            )
        )
    elif how == "append":
        data += draw.choice((b"\n\n", b"\0", b"garbage", content[:100], bytes(4096)))
    else:
        data[:0] = draw.choice(
            (
                b"\xef\xbb\xbf",
                b"\n",
                b"\x1f\x8b\x08",
                b"<!DOCTYPE html><html>",
                b"version https://git-lfs.github.com/spec/v1\n",
            )
        )
    return bytes(data), f"{how} at {at} of {len(content)}", how


def _paths(node: Any, so_far: Path = ()) -> list[Path]:
    found = [so_far]
    if isinstance(node, dict):
        for key, value in list(node.items())[:200]:
            found += _paths(value, (*so_far, key))
    elif isinstance(node, list):
        for number, value in enumerate(node[:50]):
            found += _paths(value, (*so_far, number))
    return found


def _at(node: Any, path: Path) -> Any:
    for step in path:
        node = node[step]
    return node


def _shuffled(draw: random.Random, node: Any) -> Any:
    if isinstance(node, dict):
        items = list(node.items())
        draw.shuffle(items)
        return {key: _shuffled(draw, value) for key, value in items}
    return [_shuffled(draw, value) for value in node] if isinstance(node, list) else node
