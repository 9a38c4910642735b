"""What two runs' descriptions have in common, and the first thing in which they differ, in words."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec


def described(info: msgspec.Struct) -> dict[str, Any]:
    """What a run is, as plain JSON."""
    return msgspec.json.decode(msgspec.json.encode(info))


def first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], apart: Collection[str] = ()
) -> tuple[str, str, str] | None:
    """The first entry in which two runs' descriptions differ, and its two values, in words; `apart` may differ."""
    for key, now in other.items():
        before = one.get(key)
        if key in apart or before == now:
            continue
        name = key.replace("_", " ")
        if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys() and "name" not in now:
            inner = first_difference(before, now)
            if inner is not None:
                return f"{name} {inner[0]}", *inner[1:]
        return name, _short(before), _short(now)
    return None


def _short(value: object) -> str:
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
