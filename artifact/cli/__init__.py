"""kloc: the command line. Thin: it parses, calls, prints, and turns errors into one line and an exit code.

Exit codes: 0 done and reproduced or nothing to compare; 1 ran, and a compared value is outside its tolerance; 2 bad
input or environment; 3 interrupted, resumable. One file a group of commands; imports that load torch happen inside the
commands that need it.
"""

import sys

import cyclopts

from artifact.cli import bench, compare, doctor, edit, fetch, make, mend, merge, moments, runs, status, trace  # noqa: F401  (each hangs its commands on the app)
from artifact.cli.app import app
from artifact.errors import ArtifactError


def main() -> None:
    """Entry point: run the command, print an error's one line, exit with its code."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """The exit code of a command line; what a user can mend is printed to standard error in one line."""
    try:
        return app(arguments) or 0
    except ArtifactError as error:
        print(f"kloc: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except cyclopts.CycloptsError as error:
        print(f"kloc: {' '.join(str(error).split())} Try kloc --help.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe is gone: nobody is left to tell
        return 0
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which need not be loaded for this
            raise
        print(
            "kloc: the device's memory does not suffice; give less --memory, free some, or take a larger device",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("kloc: stopped; the same command goes on from what was stored", file=sys.stderr)
        return 3
