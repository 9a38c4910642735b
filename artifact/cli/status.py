"""kloc status, recover: how far a run is, and what can be saved of a damaged one."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.runs import say_damage
from artifact.errors import RunError
from artifact.terminal import complain, say

_REASONS = 5


def status(run_folder: Annotated[Path, Parameter(help="Folder of a run, or of several.")]) -> int:
    """Show what is done and left of a run, who works on it, the time left, and the commonest reasons for failures."""
    from artifact.reporting.tables import counted_reasons
    from artifact.runs.journal import run_folders
    from artifact.runs.status import RunStatus, copy_line, run_status, status_lines, total_line
    from artifact.runs.store import reading

    exit_code = 0
    runs: list[RunStatus] = []
    for folder in run_folders(run_folder):
        try:
            with reading(folder) as store:
                current = run_status(store)
                reasons = counted_reasons(store)
                copy = copy_line(store)
                exit_code = max(exit_code, say_damage([store]))
        except RunError as error:  # the other runs are still worth a line
            complain(error)
            exit_code = error.exit_code
            continue
        if runs:
            say()
        for line in status_lines(current, time.time()):
            say(line)
        if copy:
            say(copy)
        for reason in reasons[:_REASONS]:
            say(f"{reason.count} {reason.status}: {' '.join(reason.text.split())}")
        if len(reasons) > _REASONS:
            say(
                f"{sum(reason.count for reason in reasons[_REASONS:])} more for {len(reasons) - _REASONS} other reasons"
            )
        runs.append(current)
    if len(runs) > 1:
        say()
        say(f"{run_folder}, {len(runs)} runs, {total_line(runs)}")
    return exit_code


def recover(
    run_folder: Annotated[Path, Parameter(help="Folder of a damaged run; nothing in it is changed.")],
    *,
    out: Annotated[Path, Parameter(help="New folder for the undamaged records.")],
) -> int:
    """Save the undamaged records of a run in a new folder. The run's command with --out FOLDER then completes it."""
    from artifact.runs.recover import recover as save

    units = save(run_folder, out)
    for unit in units:
        say(f"{unit.unit}: {unit.saved} saved, {unit.lost} lost, {unit.left} to compute")
    saved, lost, left = (sum(getattr(unit, count) for unit in units) for count in ("saved", "lost", "left"))
    say(f"in all: {saved} saved, {lost} lost, {left} to compute: run the same command again with --out {out}")
    return 0
