"""kloc merge: the parts of a run, made with --shard, put together."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.terminal import say


def merge(
    *runs: Annotated[
        Path, Parameter(help="Folders of the parts, as --shard i/n made them; nothing in them is changed.")
    ],
    out: Annotated[Path, Parameter(help="New folder for the run, which is then like one made without --shard.")],
) -> int:
    """Join the parts of a run in a new folder. The run's own command with --out FOLDER then computes missing cases."""
    from artifact.runs.merge import merge as put_together

    merged = put_together(runs, out)
    for run in merged:
        parts = f"{run.parts[0]} of {run.parts[1]} parts are there, " if run.parts else ""
        say(f"{run.folder}: {parts}{run.cases} of {run.planned} cases")
    if any(run.cases < run.planned for run in merged):
        say(f"the parts' command without --shard and with --out {out} computes the missing cases")
    say(out)
    return 0
