"""Numbers that options take: from a least to a most, said in one line before anything is loaded."""

from collections.abc import Callable
from typing import Any

from cyclopts import Parameter

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


def count(says: str, most: int = MANY) -> Any:
    """The parameter of an option that takes a whole number, at least one."""
    return Parameter(help=says, validator=between(1, most))
