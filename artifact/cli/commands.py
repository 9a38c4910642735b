"""All commands, and what becomes of their errors: one line and an exit code.

A defect of this package (an exception that is none of its errors) ends with exit code 70, one line and a log file with
the traceback. Loaded by artifact.cli when a command is run.
"""

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

import cyclopts

from artifact import __version__
from artifact.cli import STOPPED
from artifact.cli.app import app
from artifact.errors import ArtifactError, SettingError
from artifact.io import reason, write_atomically
from artifact.sources.cache import check_endpoint_is_readable
from artifact.terminal import complain, shown, speaking

_COMMANDS = {
    "answer": (
        "answers:answer",
        "Answer what a reviewer asks (expected/reviewer.json) from a run's records, each in one line.",
    ),
    "apply": (
        "apply:apply",
        "Write an edited model that transformers loads, with a model card. The model's own files do not change.",
    ),
    "baseline": (
        "runs:baseline",
        "Keep a run's numbers in a file, so that later runs of the same kind are compared with them.",
    ),
    "bench": (
        "bench:bench_app",
        "Compare this package with the one-at-a-time way on the same work: time, and how far results differ.",
    ),
    "compare": (
        "compare:compare",
        "Show what differs between two runs: settings, and paired differences (second minus first) over common cases.",
    ),
    "contribute": (
        "contribute:contribute",
        "Pack a finished run, with settings, hashes and hardware, to send it to others: kloc verify PACK judges it.",
    ),
    "doctor": (
        "doctor:doctor",
        "Show what this machine has and what is missing, or what a plan would take: estimated, or rehearsed here.",
    ),
    "edit": (
        "edit:edit",
        "Edit one fact, or several jointly, and write the weight change to a file. The model's files do not change.",
    ),
    "facts": (
        "facts:facts_app",
        "Your own facts: check a file, begin one, convert one of another project.",
    ),
    "fetch": (
        "fetch:fetch",
        "Fetch models, data and weights from pinned places. Cut downloads resume; every file is verified by its hash.",
    ),
    "figures": (
        "figures:figures",
        "Draw a run's figures for a paper, and print each file's path. No model is loaded.",
    ),
    "full": (
        "runs:full",
        "Run the whole paper: both models, tables and figures. Fetches what it needs, resumes, takes hours on a GPU.",
    ),
    "generate": (
        "generate:generate",
        "Continue a prompt with the likeliest token each time, unedited or with edits. No weight is changed.",
    ),
    "knockout": (
        "knockout:knockout",
        "Attention knockout of one prompt: the answer's probability when some tokens cannot read others.",
    ),
    "mend-train": (
        "mend:mend_train",
        "Train MEND's network from both perspectives. After an interruption the same command resumes.",
    ),
    "merge": (
        "merge:merge",
        "Join the parts of a run in a new folder. The run's own command with --out FOLDER then computes missing cases.",
    ),
    "moments": (
        "moments:moments",
        "Collect second moments in the published layout. After an interruption the same command resumes.",
    ),
    "recover": (
        "status:recover",
        "Save the undamaged records of a run in a new folder. The run's command with --out FOLDER then completes it.",
    ),
    "report": (
        "runs:report",
        "Render a run's report again from its stored records. No model is loaded.",
    ),
    "run": (
        "runs:run",
        "Run a plan, or resume an interrupted run of it. The last line printed is the report's path.",
    ),
    "score": (
        "edit:score",
        "Score the model, unedited or edited, from both perspectives, and say whether it writes the target by itself.",
    ),
    "sequence": (
        "sequence:sequence",
        "Write facts one after the other, and as one batch, and score them. The model's own files do not change.",
    ),
    "smoke": (
        "runs:smoke",
        "Run every stage once on a small model, in minutes: traces, edits of both perspectives, tables and figures.",
    ),
    "status": (
        "status:status",
        "Show what is done and left of a run, who works on it, the time left, and the commonest reasons for failures.",
    ),
    "trace": (
        "trace:trace",
        "Causal tracing of one prompt: the answer's probability with each token's state restored in each layer.",
    ),
    "tune": (
        "tune:tune",
        "Choose a method's hyperparameters on a small grid. After an interruption the same command resumes.",
    ),
    "verify": (
        "runs:verify",
        "Print the verdict on a run. Exit code 1: a value is outside its tolerance. Exit code 2: records are damaged.",
    ),
    "world": (
        "make:world_app",
        "The embedded world: made-up facts and the small model trained on them.",
    ),
}
"""By name, the file in artifact/cli and what in it is the command, loaded when the command is run or its own help asked
for; and the first sentences of that help, for the help of all commands, which loads none of them.
"""
for _name, (_place, _line) in _COMMANDS.items():
    app.command(f"artifact.cli.{_place}", name=_name, help=_line)
DEFECT = 70
"""Exit code of a defect, as sysexits.h has it: apart from 1, which says that a value is outside its tolerance."""
_OURS = (errno.EBADF, errno.EFAULT, errno.EINVAL)
"""What the system says of a wrong call. Every other error of the system's is something that the user can see to."""
_NO_MEMORY = "this machine's memory does not suffice; give less --memory, free some, or take a larger machine"
_TEXTS = ("--prompt", "--subject", "--template", "--hardware")
"""Options that take text of any kind; the commands themselves refuse an empty one where they must."""


def answer(arguments: list[str]) -> int:
    """The exit code of a command line. Where standard output cannot be written, files are, and the code is 2."""
    with speaking() as heard:
        code = _tried(arguments)
    if heard.lost:
        complain(f"standard output cannot be written ({heard.lost}); files asked for are written all the same")
        return code or 2
    return code


def _tried(arguments: list[str]) -> int:
    try:
        _refuse_odd(arguments)
        check_endpoint_is_readable()
        if not 20 <= _columns() <= 1000:
            os.environ.pop("COLUMNS", None)  # help cannot be set in so few; libraries fall back on the terminal's own
        return app(arguments) or 0
    except ArtifactError as error:
        complain(error)
        return error.exit_code
    except cyclopts.CycloptsError as error:
        complain(f"{error} Try kloc --help.")
        return 2
    except KeyboardInterrupt:
        complain(STOPPED)
        return 3
    except SystemExit as error:  # how rich leaves when the reader of a pipe has gone
        return 0 if error.code == 1 else 2
    except MemoryError:
        complain(_NO_MEMORY)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 0  # help has its own way to print
        if error.errno is None or error.errno in _OURS:
            return _defect(error)
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        complain(f"{where}{reason(error)}; give a file or folder that can be used, and room on its disk")
        return 2
    except Exception as error:
        if "DefaultCPUAllocator: can't allocate memory" in str(error):  # torch's, which has no class for it
            complain(_NO_MEMORY)
            return 2
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which need not be loaded for this
            return _defect(error)
        complain("the device's memory does not suffice; give less --memory, free some, or take a larger device")
        return 2
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust, such as tokenizers
            raise
        complain(f"a library cannot work with what it was given ({reason(error)}); give another file or model")
        return 2


def _refuse_odd(arguments: list[str]) -> None:
    """Refuse bytes that are not text, which would fail later, where a run is described; and an empty name of a file,
    which would be the current folder.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if not argument.strip() and before not in _TEXTS:
            raise SettingError(f"{before or 'an argument'}: is given nothing; give it a value, or leave it out")
        if option.startswith("--") and equals and not value.strip() and option not in _TEXTS:
            raise SettingError(f"{option}: is given nothing; give it a value, or leave it out")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SettingError(f"{argument!r}: is not UTF-8 text; give UTF-8, or rename the file it names") from None


def _columns() -> int:
    given = os.environ.get("COLUMNS", "80")
    return int(given) if given.isdecimal() and len(given) < 6 else 0


def _reader_is_gone() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _defect(error: Exception) -> int:
    """Say that this package is at fault, and keep the traceback in a file, or print it where none can be written."""
    traceback_text = "".join(traceback.format_exception(error))
    name = f"kloc-defect-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    head = f"kloc-artifact {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    what = f"a defect of this package, not of your input: {type(error).__name__}: {reason(error)}"
    content = f"{head}kloc {' '.join(map(repr, sys.argv[1:]))}\n\n{traceback_text}".encode(errors="backslashreplace")
    for folder in _folders():
        try:
            write_atomically(folder / name, content)
        except OSError:
            continue
        complain(f"{what}; please report it with {folder / name}")
        return DEFECT
    complain(f"{what}; please report it with what follows")
    for line in traceback_text.splitlines():
        print(shown(line), file=sys.stderr)
    return DEFECT


def _folders() -> list[Path]:
    """Where a log may stand: the folder of temporary files, or else the current one."""
    try:
        return [Path(tempfile.gettempdir()), Path()]
    except OSError:
        return [Path()]
