"""Numbers that options take: from a least to a most, said in one line before anything is loaded."""

import re
from collections.abc import Callable
from typing import Any

from cyclopts import Parameter

from artifact.errors import SettingError

MANY = 1_000_000_000


def between(least: float, most: float = MANY) -> Callable[[type, Any], None]:
    """A check of an option's number; nan is outside."""

    def check(_: type, value: Any) -> None:
        if value is not None and not least <= value <= most:
            raise ValueError(f"It must be at least {least} and at most {most}.")

    return check


def size(_: type, value: str | None) -> None:
    """A check of a size in bytes; SettingError for text that is not a size."""
    from artifact.lm.device import parse_bytes

    if value is not None:
        parse_bytes(value)


_UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
"""Inches; a point is TeX's, in which LaTeX gives a column's width."""
NARROWEST, WIDEST = 3.0, 20.0
"""Inches of a figure: below, its labels leave no room for what they name."""


def inches(text: str) -> float:
    """A figure's width in inches. SettingError where the text is not a width, or it is too small or too large."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(in|cm|mm|pt)", text.strip()[:60])
    width = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not NARROWEST <= width <= WIDEST:
        raise SettingError(
            f"--width {text[:60]!r} is not a width of {NARROWEST:g} to {WIDEST:g} inches; give one in in, cm, mm or "
            "pt, such as 3.3in"
        )
    return width


def count(says: str, most: int = MANY) -> Any:
    """The parameter of an option that takes a whole number, at least one."""
    return Parameter(help=says, validator=between(1, most))
