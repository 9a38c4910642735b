"""Figures drawn by two processes at once: this one, and a second one that it starts; each takes the next that is left.

Covers sharing the work. What a figure looks like is figures.py's; which ones need drawing, drawings.py's. matplotlib is
loaded to draw alone. With OMP_NUM_THREADS=1, one processor, or few figures all are drawn here.
"""

import gc
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

from artifact.reporting.gallery import Shown

_WORTH = 4
"""From so many figures on a second process pays: it starts as long as two figures take."""
_PROGRAM = "import sys; sys.path[:] = {!r}; from artifact.reporting.drawing import serve; serve()"
_LOST = (OSError, EOFError, pickle.PickleError)
"""What reading from a process that has ended, or writing to it, comes to, and a figure that cannot be sent."""


class Drawers:
    """This process and, from `begin` on, a second one; a context, at whose end the second one has ended.

    `begin` before the figures are known lets the second process load its libraries in the meantime.
    """

    def __init__(self) -> None:
        self._second: subprocess.Popen[bytes] | None = None
        self._thread: Thread | None = None

    def begin(self) -> None:
        """Start the second process, where one pays and none was started."""
        if self._second is not None or os.environ.get("OMP_NUM_THREADS") == "1" or os.cpu_count() == 1:
            return
        # With this process's own path: the same code, wherever it was found.
        command = [sys.executable, "-c", _PROGRAM.format(sys.path)]
        pipe = subprocess.PIPE
        with suppress(OSError):  # no room for a process: all is drawn here
            self._second = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def draw(self, every: Sequence[Shown], forms: Sequence[str], width: float | None = None) -> list[list[bytes]]:
        """Each figure's content in each of the forms, `width` inches wide (None: a report's): the same bytes whoever
        draws it.
        """
        left = deque(enumerate(every))
        found: dict[int, list[bytes]] = {}
        if len(every) >= _WORTH:
            self.begin()
        if self._second is not None:
            self._thread = Thread(target=self._hand_out, args=(self._second, left, found, forms, width), daemon=True)
            self._thread.start()
        _draw_left(left, found, forms, width)
        if self._thread is not None:
            self._thread.join()
            _draw_left(left, found, forms, width)  # what the second process could not
        return [found[i] for i in range(len(every))]

    @staticmethod
    def _hand_out(
        second: subprocess.Popen[bytes],
        left: deque[tuple[int, Shown]],
        found: dict[int, list[bytes]],
        forms: Sequence[str],
        width: float | None,
    ) -> None:
        """Let the second process draw the last that is left until nothing is, or it has ended."""
        assert second.stdin is not None and second.stdout is not None
        while left:
            try:
                i, one = left.pop()
            except IndexError:  # this process was faster
                return
            try:
                pickle.dump((one, forms, width), second.stdin)
                second.stdin.flush()
                found[i] = pickle.load(second.stdout)
            except _LOST:
                left.append((i, one))
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._second is None:
            return
        self._second.kill()
        if self._thread is not None:  # what it waits for has ended
            self._thread.join()
        with suppress(OSError), self._second:  # closes its pipes, one of which may hold what was not sent
            pass


def draw_all(every: Sequence[Shown], forms: Sequence[str], width: float | None = None) -> list[list[bytes]]:
    """What `Drawers.draw` gives, for one call alone."""
    with Drawers() as drawers:
        return drawers.draw(every, forms, width)


def serve() -> None:
    """The second process: draws each figure that standard input asks for, and writes it to standard output."""
    gc.disable()  # it ends soon
    import artifact.reporting.figures  # noqa: F401 (loaded before anything is asked)

    with suppress(EOFError):
        while True:
            one, forms, width = pickle.load(sys.stdin.buffer)
            pickle.dump(draw_here(one, forms, width), sys.stdout.buffer)
            sys.stdout.buffer.flush()


def draw_here(one: Shown, forms: Sequence[str], width: float | None) -> list[bytes]:
    """One figure's content in each of the forms, drawn by this process."""
    from artifact.reporting.figures import figure_files
    from artifact.reporting.look import COLUMN_INCHES

    return list(figure_files(one, forms, width or COLUMN_INCHES).values())


def _draw_left(
    left: deque[tuple[int, Shown]], found: dict[int, list[bytes]], forms: Sequence[str], width: float | None
) -> None:
    """Draw here, one after the other, what is left."""
    while left:
        try:
            i, one = left.popleft()
        except IndexError:  # the second process took it
            return
        found[i] = draw_here(one, forms, width)
