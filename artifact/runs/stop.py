"""Stopping on request: the first Ctrl-C or SIGTERM lets the work in hand be finished, a second one stops at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.asked = self._idle = False

    def __call__(self) -> bool:
        return self.asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; the second one raises KeyboardInterrupt, and the first one where nothing would be lost."""
        at_once = self.asked or self._idle
        self.asked = True
        if at_once:
            raise KeyboardInterrupt

    @contextmanager
    def idle(self) -> Iterator[None]:
        """A block of which nothing is stored: a signal ends it at once, and is remembered."""
        self._idle = True
        try:
            yield
        except KeyboardInterrupt:
            if not self.asked:
                raise
        finally:
            self._idle = False


@contextmanager
def stopping(take: bool = True) -> Iterator[Stop]:
    """A Stop that hears SIGINT and SIGTERM within the block; with `take` False the signals keep their usual meaning."""
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM) if take else ()
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
