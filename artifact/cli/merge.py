"""kloc merge: the parts of a run, made with --shard, put together."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import app
from artifact.terminal import say


@app.command
def merge(
    *runs: Annotated[
        Path, Parameter(help="Folders of the parts, as --shard i/n made them; nothing in them is changed.")
    ],
    out: Annotated[Path, Parameter(help="New folder for the run, which is then like one made without --shard.")],
) -> int:
    """Put the parts of a run together into a new run; its own command computes the missing cases."""
    from artifact.runs.merge import merge as put_together

    made = put_together(runs, out)
    for one in made:
        parts = f"{one.parts[0]} of {one.parts[1]} parts are there, " if one.parts else ""
        say(f"{one.folder}: {parts}{one.cases} of {one.planned} cases")
    if any(one.cases < one.planned for one in made):
        say(f"the parts' command without --shard and with --out {out} computes the missing cases")
    say(out)
    return 0
