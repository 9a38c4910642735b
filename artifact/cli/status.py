"""kloc status, recover: where a run stands, and what can be saved of a damaged one."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import app
from artifact.cli.runs import say_damage
from artifact.errors import RunError
from artifact.terminal import complain, say

_REASONS = 5


@app.command
def status(run_folder: Annotated[Path, Parameter(help="Folder of a run, or of several.")]) -> int:
    """What is done and left of a run, who works on it, the time left, and the most frequent reasons for failures."""
    from artifact.reporting.tables import counted_reasons
    from artifact.runs.journal import run_folders
    from artifact.runs.status import RunStatus, copy_line, run_status, status_lines, total_line
    from artifact.runs.store import reading

    exit_code = 0
    runs: list[RunStatus] = []
    for folder in run_folders(run_folder):
        try:
            with reading(folder) as store:
                found = run_status(store)
                reasons = counted_reasons(store)
                copy = copy_line(store)
                exit_code = max(exit_code, say_damage([store]))
        except RunError as error:  # the other runs are still worth a line
            complain(error)
            exit_code = error.exit_code
            continue
        if runs:
            say()
        for line in status_lines(found, time.time()):
            say(line)
        if copy:
            say(copy)
        for reason in reasons[:_REASONS]:
            say(f"{reason.count} {reason.status}: {' '.join(reason.text.split())}")
        if len(reasons) > _REASONS:
            say(f"{sum(one.count for one in reasons[_REASONS:])} more for {len(reasons) - _REASONS} other reasons")
        runs.append(found)
    if len(runs) > 1:
        say()
        say(f"{run_folder}, {len(runs)} runs, {total_line(runs)}")
    return exit_code


@app.command
def recover(
    run_folder: Annotated[Path, Parameter(help="Folder of a damaged run; nothing in it is changed.")],
    *,
    out: Annotated[Path, Parameter(help="New folder for what is whole.")],
) -> int:
    """Save the whole records of a damaged run into a new one, which the run's command with --out then finishes."""
    from artifact.runs.recover import recover as save

    found = save(run_folder, out)
    for one in found:
        say(f"{one.unit}: {one.saved} saved, {one.lost} lost, {one.left} to compute")
    saved, lost, left = (sum(getattr(one, name) for one in found) for name in ("saved", "lost", "left"))
    say(f"in all: {saved} saved, {lost} lost, {left} to compute: run the same command again with --out {out}")
    return 0
