"""What making a run ready takes, by part: seconds of the clock, said in one line before the first unit.

Covers measuring. A part that is entered inside another is not counted twice. Outside of a measurement a part costs
nothing, so that what commands and runs share may name its parts.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_SHOWN = 0.05
"""Seconds below which a part is not named."""


class Took:
    """Seconds by part since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def words(self) -> str:
        """The parts in a line, the longest first, and what no part counts."""
        whole = time.perf_counter() - self.began
        longest = sorted(self.seconds.items(), key=lambda one: -one[1])
        named = {part: seconds for part, seconds in longest if seconds >= _SHOWN}
        rest = whole - sum(named.values())
        parts = [*named.items(), *([("the rest", rest)] if rest >= _SHOWN else [])]
        return f"ready after {whole:.1f} s" + (f": {', '.join(f'{n} {s:.1f}' for n, s in parts)}" if parts else "")


_now: ContextVar[Took | None] = ContextVar("took", default=None)


@contextmanager
def measured() -> Iterator[Took]:
    """A measurement: the parts entered in the block are counted in it."""
    took = Took()
    before = _now.set(took)
    try:
        yield took
    finally:
        _now.reset(before)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Counts the block, or as a decorator the function, as a part of the measurement, if there is one."""
    took = _now.get()
    if took is None:
        yield
        return
    began, inside = time.perf_counter(), sum(took.seconds.values())
    try:
        yield
    finally:
        own = time.perf_counter() - began - (sum(took.seconds.values()) - inside)
        took.seconds[name] = took.seconds.get(name, 0.0) + own


def counted(seconds: Mapping[str, float]) -> None:
    """Counts parts that another process measured (a worker), if there is a measurement here."""
    took = _now.get()
    if took is not None:
        for name, own in seconds.items():
            took.seconds[name] = took.seconds.get(name, 0.0) + own
