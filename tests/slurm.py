"""A stand-in for SLURM's sbatch and scontrol, as far as docs/cluster.md uses them, and for a kloc that is signalled.

`python slurm.py sbatch|scontrol|kloc ...` in the submitting folder. A job runs at once, its tasks side by side; `jobs`
has a line for each start of a task: job, task and exit code. kloc runs the embedded world for gpt2-xl. SLURM_SIGNALS
names tasks whose first start is signalled after its second record: by TERM to the script, or by KILL to kloc.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

JOBS, REQUEUED = Path("jobs"), Path("requeued")
PLAN = ["smoke", "--model", "world", "--limit", "9", "--methods", "rome", "--only", "table1"]
"""A batch of unedited facts and three of edits: of two parts, the first has two and the second one of these."""


def jobs() -> list[tuple[int, int, int]]:
    """Job, task and exit code of each start that ended."""
    return [json.loads(line) for line in JOBS.read_text().splitlines()] if JOBS.exists() else []


def sbatch(arguments: list[str]) -> int:
    """Run a script's tasks until none is requeued, unless a job that it depends on failed; print the job's number."""
    *given, script = arguments
    lines = re.findall(r"^#SBATCH (.*)", Path(script).read_text(), re.MULTILINE)
    options = dict((*line.split("=", 1), "")[:2] for line in [*lines, *given])
    job = 1 + max((one[0] for one in jobs()), default=0)
    print(job)
    if after := re.fullmatch(r"afterok:(\d+)", options.get("--dependency", "")):
        codes = {task: code for number, task, code in jobs() if number == int(after[1])}  # the last start counts
        if any(codes.values()):
            return 0  # as with --kill-on-invalid-dep=yes
    first, _, last = options.get("--array", "0").partition("-")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda task: _task(job, task, script, options), range(int(first), int(last or first) + 1)))
    return 0


def _task(job: int, task: int, script: str, options: dict[str, str]) -> None:
    names = {"SLURM_ARRAY_JOB_ID": f"{job}", "SLURM_ARRAY_TASK_ID": f"{task}"}
    mode = "a" if options.get("--open-mode") == "append" else "w"
    for start in range(5):
        environment = {**os.environ, **names, "SLURM_RESTART_COUNT": f"{start}"}
        with open(options["--output"].replace("%a", f"{task}"), mode) as log:
            done = subprocess.run(["bash", script], stdout=log, stderr=log, env=environment, check=False)
        with JOBS.open("a") as file:
            file.write(json.dumps([job, task, done.returncode]) + "\n")
        mark = Path(f"{REQUEUED}-{job}_{task}")
        if not ("--requeue" in options and mark.exists()):
            return
        mark.unlink()


def scontrol(arguments: list[str]) -> int:
    """Note that a task is to run again."""
    word, task = arguments
    assert word == "requeue" and re.fullmatch(r"\d+_\d+", task)
    Path(f"{REQUEUED}-{task}").touch()
    return 0


def kloc(arguments: list[str]) -> int:
    """The command on the embedded world."""
    from artifact.cli import main

    sys.argv[1:] = ["run", *PLAN, *arguments[2:]] if arguments[:2] == ["run", "gpt2-xl"] else arguments
    number = dict(pair.split("=") for pair in os.environ["SLURM_SIGNALS"].split()).get(
        os.environ["SLURM_ARRAY_TASK_ID"]
    )
    if number and os.environ["SLURM_RESTART_COUNT"] == "0":
        _signalled(signal.Signals[f"SIG{number}"])
    main()
    return 0


def _signalled(number: signal.Signals) -> None:
    """Send the signal once the second record is stored, and go on when it has arrived."""
    from artifact.runs.stop import Stop
    from artifact.runs.store import Store

    add, handle, stored, heard = Store.add, Stop.handle, [], []

    def hear(stop, *arguments):
        heard.append(True)
        handle(stop, *arguments)

    def store(self, *arguments, **options):
        add(self, *arguments, **options)
        stored.append(True)
        if len(stored) == 2:
            os.kill(os.getpid() if number == signal.SIGKILL else os.getppid(), number)
            until = time.monotonic() + 60
            while not heard and time.monotonic() < until:
                time.sleep(0.01)

    Stop.handle, Store.add = hear, store


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
