"""Some cases as real processes, for what happens around `call`: Ctrl-C, streams that are closed, full or not UTF-8."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

from .box import Box, Case

WAYS = ("ascii", "latin", "no input", "no output", "full", "reader gone", "interrupt", "interrupt", "no home", "plain")


def case(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    """One of the quick commands, started in one of the ways."""
    way = draw.choice(WAYS)
    smoke = box.command(
        "run smoke --model in/model --facts in/facts.json --out out/run --only table2 --methods ft --limit 2"
    )
    short = [box.command(line) for line in ("verify in/run", "fetch", "doctor", "--help")]
    command = draw.choice((make["trace"](box), make["score"](box), smoke, *short))
    if way == "interrupt":
        command = draw.choice((smoke, make["trace"](box), make["edit"](box)))
    needs = make["needs"]("facts.json", "request.json", "rome.json", "moments", "prefixes.json", "run")
    after = draw.uniform(0, 1.5)
    words = f"{command[0]}, {way}" + (f" after {after:.2f} s" if way == "interrupt" else "")
    found = Case("processes", words, command, "free", needs, ("out", "cache", "hub"), judged=True)
    found.process = (way, after)
    if way == "no home":
        found.writes = (*found.writes, "home")
    return found


def run(box: Box, case: Case) -> Any:
    """The command in a process of its own; its exit code, and what reached its streams."""
    from .judge import Ended

    way, after = case.process
    env = {
        **os.environ,
        **case.env,
        **{"ascii": {"PYTHONIOENCODING": "ascii"}, "latin": {"PYTHONIOENCODING": "latin-1"}}.get(way, {}),
    }
    if way == "no home":
        env.pop("HOME")
        env |= {"HF_HOME": "", "XDG_CACHE_HOME": ""}
    out = subprocess.PIPE
    if way == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif way == "reader gone":
        reads, out = os.pipe()
        os.close(reads)
    # A harness in the background ignores Ctrl-C, and what it starts would, too.
    source = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    source += "; from artifact.cli import main; main()"
    closed = {"no input": 0, "no output": 1}.get(way)
    source = source if closed is None else f"import os; os.close({closed}); {source}"
    process = subprocess.Popen([sys.executable, "-c", source, *case.arguments], stdin=subprocess.DEVNULL, stdout=out,
                               stderr=subprocess.PIPE, cwd=box.cwd, env=env)  # fmt: skip
    if out != subprocess.PIPE:
        os.close(out)
    if way == "interrupt":
        _when_torch_loads(process, after)
        process.send_signal(signal.SIGINT)
    said = process.communicate()
    texts = [(one or b"").decode({"latin": "latin-1"}.get(way, "utf-8"), "replace") for one in said]
    return Ended(process.returncode, *texts, "", 0.0)


def _when_torch_loads(process: "subprocess.Popen[bytes]", after: float) -> None:
    """Wait until torch is being loaded, and then for a while: before, Python itself is still starting."""
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/maps") as maps:
                if "libtorch" in maps.read():
                    break
        except OSError:
            return
        time.sleep(0.01)
    time.sleep(after)
