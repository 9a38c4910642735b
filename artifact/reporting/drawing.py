"""Figures drawn by two processes at once: half of them here, half in a second one that this one starts.

Covers sharing the work. What a figure looks like is figures.py's; which ones need drawing, drawings.py's. matplotlib is
loaded to draw alone. With OMP_NUM_THREADS=1, one processor, or few figures all are drawn here.
"""

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from artifact.reporting.gallery import Shown

_WORTH = 4
"""From so many figures on a second process pays: it starts as long as two figures take."""
_PROGRAM = "import sys; sys.path[:] = {!r}; from artifact.reporting.drawing import serve; serve()"


def draw_all(every: Sequence[Shown], forms: Sequence[str], width: float | None = None) -> list[list[bytes]]:
    """Each figure's content in each of the forms, `width` inches wide (None: a report's): the same bytes either way."""
    if len(every) < _WORTH or os.environ.get("OMP_NUM_THREADS") == "1" or os.cpu_count() == 1:
        return draw_here(every, forms, width)
    # With this process's own path: the same code, wherever it was found.
    command = [sys.executable, "-c", _PROGRAM.format(sys.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as second:
        assert second.stdin is not None
        try:
            with second.stdin as stdin:
                pickle.dump((every[1::2], forms, width), stdin)
        except BrokenPipeError:  # it ended before it had read: all is drawn here
            pass
        found = dict(zip(range(0, len(every), 2), draw_here(every[::2], forms, width), strict=True))
        assert second.stdout is not None
        answer = second.stdout.read()
    rest = draw_here(every[1::2], forms, width) if second.returncode else pickle.loads(answer)
    found |= zip(range(1, len(every), 2), rest, strict=True)
    return [found[i] for i in range(len(every))]


def serve() -> None:
    """The second process: draws what standard input asks for, and writes it to standard output."""
    gc.disable()  # it ends soon
    asked = sys.stdin.buffer.read()
    sys.stdout.buffer.write(pickle.dumps(draw_here(*pickle.loads(asked))))


def draw_here(every: Sequence[Shown], forms: Sequence[str], width: float | None) -> list[list[bytes]]:
    """The same, all by this process."""
    from artifact.reporting.figures import figure_files
    from artifact.reporting.look import COLUMN_INCHES

    return [list(figure_files(one, forms, width or COLUMN_INCHES).values()) for one in every]
