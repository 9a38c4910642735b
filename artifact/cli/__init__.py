"""kloc: the command line. Thin: it parses, calls, prints, and turns errors into one line and an exit code.

Exit codes: 0 done and reproduced or nothing to compare; 1 ran, and a compared value is outside its tolerance; 2 bad
input or environment; 3 interrupted, resumable; 70 a defect of this package. One file a group of commands; imports that
load torch happen inside the commands that need it. This file itself loads almost nothing, so that Ctrl-C and SIGTERM
are answered in one line from the first moment on.
"""

import os
import sys

STOPPED = "stopped; the same command goes on from what was stored"


def _leave() -> None:
    """End the process as interrupted: one line, and the cursor that a progress bar hid is shown again."""
    try:
        if sys.stdout is not None and sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")
        os.write(2, f"kloc: {STOPPED}\n".encode())
    finally:
        os._exit(3)


try:
    import atexit
    import signal
    from types import FrameType
except KeyboardInterrupt:  # nothing stands ready yet
    _leave()


def main() -> None:
    """Entry point: run the command, print an error's one line, exit with its code."""
    # A shell lets jobs in the background ignore SIGINT; schedulers and container engines send SIGTERM.
    heeded = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    sys.unraisablehook = _unraisable
    for number in heeded:
        signal.signal(number, _interrupt)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # the last thing, when only the end is left
    code = 3
    try:
        from artifact.terminal import keep_descriptors, silence

        keep_descriptors()
        code = call(sys.argv[1:])
        for number in heeded:
            signal.signal(number, lambda *_: os._exit(code))  # while threads and libraries end
        if _unwritten():
            silence(1)  # the interpreter would complain of what is unwritten at its end
    except KeyboardInterrupt:  # a second one, while the first was answered
        _leave()
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """The exit code of a command line; what a user can mend is printed to standard error in one line."""
    from artifact.cli.commands import answer

    return answer(arguments)


def _unwritten() -> bool:
    """Whether standard output holds what cannot be written, such as for a pipe that nobody reads any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Take Ctrl-C or SIGTERM. A module being loaded may swallow KeyboardInterrupt: then the process ends here."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """A KeyboardInterrupt in a destructor would be printed with its traceback and forgotten."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(unraisable)
