"""Numbers that options take: from a least to a most, said in one line before anything is loaded."""

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

MANY = 1_000_000_000
SAMPLES = 10_000
"""Most noise samples: all of them are in memory at once."""


def between(least: float, most: float = MANY) -> Callable[[type, Any], None]:
    """A check of an option's number; nan is outside."""

    def check(_: type, value: Any) -> None:
        if value is not None and not least <= value <= most:
            raise ValueError(f"give a number from {least:g} to {most:g}")

    return check


def size(_: type, value: str | None) -> None:
    """A check of a size in bytes; SettingError for one that is none."""
    from artifact.lm.device import parse_bytes

    if value is not None:
        parse_bytes(value)


def count(says: str, most: int = MANY) -> Any:
    """The parameter of an option that takes a whole number, at least one."""
    return Parameter(help=says, validator=between(1, most))


LoopFacts = Annotated[int, count("Facts timed one at a time; both results are compared on these.", 100_000)]
TargetTokens = Annotated[int, count("Tokens of every target.", 500)]
